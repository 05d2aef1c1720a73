//! One request to the endpoint that its route picks, and the head of its response back; if there is none, see
//! [`retry`](crate::data_path::route::retry).

use std::time::Instant;

use http::{Request, Response, request::Parts};

use crate::{
    contract::tunnel::App,
    data_path::{
        buffer::body::MessageBody,
        failure::Failure,
        http::{connection::ConnectionContext, response_body::ResponseBody},
        observe::request::{InFlight, answered},
        route::{attempts::Attempts, retry::FailedAttempt},
    },
};

pub(crate) mod http1;
mod http2;

/// Has one request answered; hop-by-hop headers are gone already.
pub(crate) async fn exchange(
    context: &ConnectionContext,
    mut head: Parts,
    mut body: MessageBody,
    started: Instant,
) -> Result<Response<ResponseBody>, Failure> {
    let mut attempts = Attempts::default();
    let mut began = started;
    loop {
        let candidate = context.route.pick(&attempts)?;
        let mut load = InFlight::new(&*candidate);
        let outcome = if candidate.endpoint.key.identity.is_some() || context.app == App::Http2 {
            match candidate.endpoint.stream(context.app).await {
                Ok(stream) => http2::send(&candidate, stream, head, body, (started, began)).await,
                Err(failure) => {
                    Err(FailedAttempt::undelivered(failure, Some(Box::new(Request::from_parts(head, body)))))
                }
            }
        } else {
            http1::send(&candidate, head, body, started).await
        };
        load.finish();
        match outcome {
            Ok(response) => {
                answered(&candidate, response.status(), began);
                return Ok(response);
            }
            Err(failed) => {
                (head, body) = failed.retry(&mut attempts, &context.route, &candidate, began)?.into_parts();
                began = Instant::now();
            }
        }
    }
}

#[cfg(test)]
mod tests;
