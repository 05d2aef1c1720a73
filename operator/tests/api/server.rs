//! An API server in memory: enough of one for reconcilers (get, list, create, replace with resource versions, apply, JSON patch of
//! finalizers, delete), with faults on demand and a record of every call.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    sync::{Arc, Mutex},
};

use http::{Method, Request, Response, StatusCode};
use http_body_util::BodyExt;
use kube::{Client, client::Body};
use serde_json::{Value, json};

/// What goes wrong with a matching call.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Fault {
    /// Refused with this status; nothing is written.
    Status(u16),
    /// Refused with 403 in these words and for this cause.
    Forbidden {
        /// The message.
        message: &'static str,
        /// Reason of its only cause.
        cause: &'static str,
    },
    /// Written, but the answer is a 500.
    LostAnswer,
}

struct Planned {
    method: Method,
    path: &'static str,
    fault: Fault,
    times: usize,
}

#[derive(Default)]
struct State {
    objects: BTreeMap<String, Value>,
    version: u64,
    faults: Vec<Planned>,
    calls: Vec<(Method, String)>,
}

/// The server; clones share everything.
#[derive(Clone, Default)]
pub(crate) struct Server(Arc<Mutex<State>>);

impl Server {
    pub(crate) fn client(&self) -> Client {
        let server = self.clone();
        Client::new(
            tower::service_fn(move |request: Request<Body>| {
                let server = server.clone();
                async move { Ok::<_, Infallible>(server.answer(request).await) }
            }),
            "bowline-system",
        )
    }

    /// The next calls of this method whose path contains `path` go wrong.
    pub(crate) fn fail(&self, method: Method, path: &'static str, fault: Fault, times: usize) {
        self.0.lock().unwrap().faults.push(Planned { method, path, fault, times });
    }

    pub(crate) fn get(&self, path: &str) -> Option<Value> {
        self.0.lock().unwrap().objects.get(path).cloned()
    }

    pub(crate) fn put(&self, path: &str, object: Value) {
        self.0.lock().unwrap().store(path, object);
    }

    pub(crate) fn remove(&self, path: &str) {
        self.0.lock().unwrap().objects.remove(path);
    }

    /// Paths of all objects.
    pub(crate) fn paths(&self) -> Vec<String> {
        self.0.lock().unwrap().objects.keys().cloned().collect()
    }

    /// Writes since the last time, as `METHOD path`.
    pub(crate) fn writes(&self) -> Vec<String> {
        let calls = std::mem::take(&mut self.0.lock().unwrap().calls);
        calls.into_iter().filter(|(m, _)| *m != Method::GET).map(|(m, p)| format!("{m} {p}")).collect()
    }

    async fn answer(&self, request: Request<Body>) -> Response<Body> {
        let (parts, body) = request.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        let body: Value = if body.is_empty() { Value::Null } else { serde_json::from_slice(&body).unwrap() };
        let path = parts.uri.path().to_owned();
        let mut state = self.0.lock().unwrap();
        state.calls.push((parts.method.clone(), path.clone()));
        let fault = state.fault(&parts.method, &path);
        if let Some(Fault::Status(code)) = fault {
            return respond(code, &status(code));
        }
        if let Some(Fault::Forbidden { message, cause }) = fault {
            let mut refusal = status(403);
            refusal["message"] = message.into();
            refusal["details"] = json!({ "causes": [{ "reason": cause, "message": "", "field": "" }] });
            return respond(403, &refusal);
        }
        let (code, answer) = state.carry_out(&parts.method, &path, body);
        match fault {
            Some(_) => respond(500, &status(500)),
            None => respond(code, &answer),
        }
    }
}

impl State {
    fn fault(&mut self, method: &Method, path: &str) -> Option<Fault> {
        let planned = self.faults.iter_mut().find(|f| f.times > 0 && f.method == *method && path.contains(f.path))?;
        planned.times -= 1;
        Some(planned.fault)
    }

    fn store(&mut self, path: &str, mut object: Value) -> Value {
        let unversioned = |v: &Value| {
            let mut v = v.clone();
            v["metadata"]["resourceVersion"] = Value::Null;
            v
        };
        if let Some(old) = self.objects.get(path)
            && unversioned(old) == unversioned(&object)
        {
            return old.clone();
        }
        self.version += 1;
        object["metadata"]["resourceVersion"] = self.version.to_string().into();
        self.objects.insert(path.into(), object.clone());
        object
    }

    fn carry_out(&mut self, method: &Method, path: &str, body: Value) -> (u16, Value) {
        match method.as_str() {
            "GET" => match self.objects.get(path) {
                Some(object) => (200, object.clone()),
                None if path.ends_with("/pods") => {
                    let part = path.trim_start_matches("/api/v1");
                    let is_in = |p: &&String| p.rsplit_once('/').is_some_and(|(parent, _)| parent.ends_with(part));
                    let items: Vec<&Value> = self.objects.keys().filter(is_in).map(|p| &self.objects[p]).collect();
                    (200, json!({ "kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": items }))
                }
                None => (404, status(404)),
            },
            "POST" => {
                let name = body["metadata"]["name"]
                    .as_str()
                    .map_or_else(|| format!("generated-{}", self.version), ToOwned::to_owned);
                let path = format!("{path}/{name}");
                if self.objects.contains_key(&path) { (409, status(409)) } else { (201, self.store(&path, body)) }
            }
            "PUT" => {
                let Some(old) = self.objects.get(path) else { return (404, status(404)) };
                let version = &body["metadata"]["resourceVersion"];
                if !version.is_null() && *version != old["metadata"]["resourceVersion"] {
                    return (409, status(409));
                }
                (200, self.store(path, body))
            }
            "PATCH" if body.is_array() => self.patch_finalizers(path, &body),
            "PATCH" => {
                let whole = path.ends_with("/status");
                let path = path.trim_end_matches("/status");
                let mut object = self.objects.get(path).cloned().unwrap_or_else(|| json!({ "metadata": {} }));
                if whole {
                    // One manager applies all of it: what it leaves out goes.
                    object["status"] = Value::Null;
                }
                merge(&mut object, body);
                (200, self.store(path, object))
            }
            "DELETE" => match self.objects.remove(path) {
                Some(object) => (200, object),
                None => (404, status(404)),
            },
            other => panic!("{other} is not known here"),
        }
    }

    fn patch_finalizers(&mut self, path: &str, operations: &Value) -> (u16, Value) {
        let Some(mut object) = self.objects.get(path).cloned() else { return (404, status(404)) };
        for operation in operations.as_array().unwrap() {
            let at = operation["path"].as_str().unwrap();
            match operation["op"].as_str().unwrap() {
                "test" if object.pointer(at).unwrap_or(&Value::Null) != &operation["value"] => {
                    return (422, status(422));
                }
                "test" => {}
                "add" if at.ends_with("/-") => {
                    object["metadata"]["finalizers"].as_array_mut().unwrap().push(operation["value"].clone());
                }
                "add" => object["metadata"]["finalizers"] = operation["value"].clone(),
                _ => {
                    let index: usize = at.rsplit('/').next().unwrap().parse().unwrap();
                    object["metadata"]["finalizers"].as_array_mut().unwrap().remove(index);
                }
            }
        }
        (200, self.store(path, object))
    }
}

/// Server-side apply, roughly: maps are merged, everything else is replaced.
fn merge(into: &mut Value, from: Value) {
    match (into, from) {
        (Value::Object(into), Value::Object(from)) => {
            for (key, value) in from {
                merge(into.entry(key).or_insert(Value::Null), value);
            }
        }
        (into, from) => *into = from,
    }
}

fn status(code: u16) -> Value {
    let reason = match code {
        403 => "Forbidden",
        404 => "NotFound",
        409 => "Conflict",
        422 => "Invalid",
        _ => "InternalError",
    };
    json!({
        "kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code, "reason": reason, "message": format!("code {code}")
    })
}

fn respond(code: u16, body: &Value) -> Response<Body> {
    Response::builder()
        .status(StatusCode::from_u16(code).unwrap())
        .header("content-type", "application/json")
        .body(Body::from(body.to_string().into_bytes()))
        .unwrap()
}
