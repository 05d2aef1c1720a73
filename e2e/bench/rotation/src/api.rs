//! The API server in memory: as much of one as a Mesh's reconciler, the CA and the identity service call. Objects by path; Secrets and
//! ConfigMaps tell whoever wants to know.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use http::{Request, Response, StatusCode};
use http_body_util::BodyExt;
use k8s_openapi::serde::de::DeserializeOwned;
use kube::{Client, client::Body};
use serde_json::{Value, json};

/// Is told what an object is now.
pub(super) type Watcher = Arc<dyn Fn(&Value) + Send + Sync>;

/// Gives the holder of a token as the `status` of a TokenReview.
pub(super) type Judge = Box<dyn Fn(&str) -> Value + Send + Sync>;

/// The server; clones share everything.
#[derive(Clone)]
pub(super) struct Api(Arc<Inner>);

struct Inner {
    state: Mutex<State>,
    judge: Judge,
    watchers: Mutex<Vec<(String, Watcher)>>,
}

#[derive(Default)]
struct State {
    objects: BTreeMap<String, Value>,
    version: u64,
}

impl Api {
    /// Empty; `judge` reviews tokens.
    #[must_use]
    pub(super) fn new(judge: Judge) -> Self {
        Self(Arc::new(Inner { state: Mutex::default(), judge, watchers: Mutex::default() }))
    }

    /// Calls `told` after every write to `path` from now on.
    pub(super) fn watch(&self, path: &str, watcher: Watcher) {
        self.watchers().push((path.to_owned(), watcher));
    }

    /// A client of it.
    #[must_use]
    pub(super) fn client(&self, namespace: &str) -> Client {
        let api = self.clone();
        let service = tower::service_fn(move |request: Request<Body>| {
            let api = api.clone();
            async move { Ok::<_, Infallible>(api.answer(request).await) }
        });
        Client::new(service, namespace)
    }

    /// An object.
    ///
    /// # Errors
    /// When it is of another kind than `K`.
    pub(super) fn get<K: DeserializeOwned>(&self, path: &str) -> serde_json::Result<Option<K>> {
        let found = self.lock().objects.get(path).cloned();
        found.map(serde_json::from_value).transpose()
    }

    /// All objects of a resource (`pods`, `configmaps`, …) in every namespace.
    ///
    /// # Errors
    /// When one is of another kind than `K`.
    pub(super) fn all<K: DeserializeOwned>(&self, resource: &str) -> serde_json::Result<Vec<K>> {
        let state = self.lock();
        let of_it = state.objects.iter().filter(|(path, _)| path.rsplit('/').nth(1) == Some(resource));
        of_it.map(|(_, object)| serde_json::from_value(object.clone())).collect()
    }

    /// Writes an object.
    pub(super) fn put(&self, path: &str, object: Value) {
        let written = self.lock().store(path, object);
        self.notify(path, &written);
    }

    /// Changes an object; nothing happens when it is not there.
    pub(super) fn change(&self, path: &str, change: impl FnOnce(&mut Value)) {
        let Some(mut object) = self.lock().objects.get(path).cloned() else { return };
        change(&mut object);
        self.put(path, object);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn watchers(&self) -> MutexGuard<'_, Vec<(String, Watcher)>> {
        self.0.watchers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn notify(&self, path: &str, object: &Value) {
        let watching: Vec<Watcher> =
            self.watchers().iter().filter(|(p, _)| p == path).map(|(_, t)| Arc::clone(t)).collect();
        for watcher in watching {
            watcher(object);
        }
    }

    async fn answer(&self, request: Request<Body>) -> Response<Body> {
        let (parts, body) = request.into_parts();
        let body = body.collect().await.map(|b| b.to_bytes()).unwrap_or_default();
        let body: Value = serde_json::from_slice(&body).unwrap_or_default();
        let (path, query) = (parts.uri.path(), Query::parse(parts.uri.query().unwrap_or_default()));
        let metadata_only = parts
            .headers
            .get_all("accept")
            .iter()
            .any(|v| v.to_str().is_ok_and(|v| v.contains("PartialObjectMetadataList")));
        let (code, answer) = match parts.method.as_str() {
            "POST" if path.ends_with("/tokenreviews") => {
                (201, json!({ "metadata": {}, "spec": {}, "status": (self.0.judge)(text(&body["spec"]["token"])) }))
            }
            // Nobody here reads events.
            "POST" | "PATCH" if path.contains("/events") => (200, body),
            "GET" => self.lock().read(path, &query, metadata_only),
            method => {
                let path = path.trim_end_matches("/status");
                let written = self.lock().write(method, path, body);
                match written {
                    Ok((path, object)) => {
                        self.notify(&path, &object);
                        (200, object)
                    }
                    Err(code) => (code, status(code)),
                }
            }
        };
        respond(code, &answer)
    }
}

impl State {
    fn store(&mut self, path: &str, mut object: Value) -> Value {
        self.version += 1;
        object["metadata"]["resourceVersion"] = self.version.to_string().into();
        self.objects.insert(path.into(), object.clone());
        object
    }

    fn read(&self, path: &str, query: &Query, metadata_only: bool) -> (u16, Value) {
        if let Some(object) = self.objects.get(path) {
            return (200, object.clone());
        }
        // `/api/v1/pods` lists those of every namespace.
        let (parent, resource) = path.rsplit_once('/').unwrap_or_default();
        let is_in = |p: &str| {
            p.starts_with(parent) && p.rsplit('/').nth(1) == Some(resource) && query.selects(&self.objects[p])
        };
        let paths: Vec<&String> = self.objects.keys().filter(|p| is_in(p)).collect();
        if paths.is_empty() && !matches!(resource, "pods" | "namespaces" | "configmaps" | "secrets" | "meshes") {
            return (404, status(404));
        }
        let page = paths.iter().skip(query.from).take(query.limit.unwrap_or(usize::MAX));
        let items: Vec<Value> = page
            .map(|p| {
                if metadata_only {
                    json!({ "metadata": self.objects[*p]["metadata"] })
                } else {
                    self.objects[*p].clone()
                }
            })
            .collect();
        let next = query.from + items.len();
        let rest = if next < paths.len() { next.to_string() } else { String::new() };
        (200, json!({ "metadata": { "resourceVersion": self.version.to_string(), "continue": rest }, "items": items }))
    }

    /// Gives the path and the object as it is now, or the status that refuses.
    fn write(&mut self, method: &str, path: &str, body: Value) -> Result<(String, Value), u16> {
        match method {
            "POST" => {
                let path = format!("{path}/{}", text(&body["metadata"]["name"]));
                if self.objects.contains_key(&path) {
                    return Err(409);
                }
                let object = self.store(&path, body);
                Ok((path, object))
            }
            "PUT" => {
                let old = self.objects.get(path).ok_or(404_u16)?;
                let version = &body["metadata"]["resourceVersion"];
                if !version.is_null() && *version != old["metadata"]["resourceVersion"] {
                    return Err(409);
                }
                Ok((path.into(), self.store(path, body)))
            }
            "PATCH" if body.is_object() => {
                let mut object = self.objects.get(path).cloned().unwrap_or_else(|| json!({ "metadata": {} }));
                apply(&mut object, body);
                Ok((path.into(), self.store(path, object)))
            }
            "DELETE" => self.objects.remove(path).map(|object| (path.to_owned(), object)).ok_or(404),
            _ => Err(405),
        }
    }
}

/// Server-side apply by the only manager of everything but metadata: metadata is merged, the rest replaced.
fn apply(object: &mut Value, patch: Value) {
    let Value::Object(patch) = patch else { return };
    for (key, value) in patch {
        match (key.as_str(), value) {
            ("metadata", Value::Object(metadata)) => {
                for (key, value) in metadata {
                    object["metadata"][key] = value;
                }
            }
            (_, value) => object[key] = value,
        }
    }
}

/// What a list asks for.
#[derive(Debug, Default, PartialEq, Eq)]
struct Query {
    labels: Vec<(String, String)>,
    limit: Option<usize>,
    from: usize,
}

impl Query {
    fn parse(query: &str) -> Self {
        let mut parsed = Self::default();
        for (key, value) in query.split('&').filter_map(|pair| pair.split_once('=')) {
            let value = decoded(value);
            match key {
                "labelSelector" => {
                    let pairs = value.split(',').filter_map(|l| l.split_once('='));
                    parsed.labels = pairs.map(|(k, v)| (k.to_owned(), v.trim_start_matches('=').to_owned())).collect();
                }
                "limit" => parsed.limit = value.parse().ok(),
                "continue" => parsed.from = value.parse().unwrap_or_default(),
                _ => {}
            }
        }
        parsed
    }

    fn selects(&self, object: &Value) -> bool {
        self.labels.iter().all(|(key, value)| object["metadata"]["labels"][key] == **value)
    }
}

/// Undoes percent-encoding.
fn decoded(text: &str) -> String {
    let mut parts = text.split('%');
    let mut plain = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let byte = part.get(..2).and_then(|digits| u8::from_str_radix(digits, 16).ok());
        plain.extend(byte.map(char::from));
        plain.push_str(part.get(2..).unwrap_or_default());
    }
    plain
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

fn status(code: u16) -> Value {
    let reason = match code {
        404 => "NotFound",
        409 => "Conflict",
        _ => "MethodNotAllowed",
    };
    json!({
        "kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code, "reason": reason, "message": format!("code {code}")
    })
}

fn respond(code: u16, body: &Value) -> Response<Body> {
    let mut response = Response::new(Body::from(body.to_string().into_bytes()));
    *response.status_mut() = StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    response.headers_mut().insert("content-type", http::HeaderValue::from_static("application/json"));
    response
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::{Pod, Secret};
    use kube::api::{Api as Kube, ListParams, PostParams};

    use super::*;

    fn api() -> Api {
        let api = Api::new(Box::new(|_| Value::Null));
        for n in 0..3 {
            let labels = if n == 0 { json!({}) } else { json!({ "bowline.dev/meshed": "true" }) };
            let path = format!("/api/v1/namespaces/shop/pods/web-{n}");
            api.put(
                &path,
                json!({ "metadata": { "name": format!("web-{n}"), "namespace": "shop", "labels": labels } }),
            );
        }
        api
    }

    #[tokio::test]
    async fn lists_by_label_in_pages() {
        let pods = Kube::<Pod>::all(api().client("shop"));
        let page = ListParams::default().labels("bowline.dev/meshed=true").limit(1);
        let first = pods.list_metadata(&page).await.unwrap();
        assert_eq!(first.items[0].metadata.name.as_deref(), Some("web-1"));
        let rest =
            pods.list_metadata(&page.continue_token(first.metadata.continue_.as_deref().unwrap())).await.unwrap();
        assert_eq!(rest.items[0].metadata.name.as_deref(), Some("web-2"));
        assert_eq!(rest.metadata.continue_.as_deref(), Some(""));
    }

    #[tokio::test]
    async fn refuses_a_write_over_what_was_not_read() {
        let secrets = Kube::<Secret>::namespaced(api().client("shop"), "shop");
        let params = PostParams::default();
        let secret = Secret {
            metadata: kube::core::ObjectMeta { name: Some("s".into()), ..Default::default() },
            ..Default::default()
        };
        let read = secrets.create(&params, &secret).await.unwrap();
        secrets.replace("s", &params, &read).await.unwrap();
        let conflict = secrets.replace("s", &params, &read).await.unwrap_err();
        assert!(matches!(conflict, kube::Error::Api(s) if s.code == 409));
        assert!(secrets.get_opt("t").await.unwrap().is_none());
    }
}
