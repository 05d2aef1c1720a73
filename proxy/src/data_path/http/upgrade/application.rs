//! Asks an application to switch protocols.

use std::{rc::Rc, time::Instant};

use http::{
    HeaderValue, Response, StatusCode,
    header::{CONNECTION, CONTENT_LENGTH, UPGRADE},
    request::Parts,
};
use hyper::upgrade::OnUpgrade;

use crate::data_path::{
    buffer::body::MessageBody,
    connect::endpoint::Candidate,
    http::{
        exchange::http1::{self, Switched},
        response_body::ResponseBody,
    },
    route::retry::FailedAttempt,
};

/// Asks for a switch to `token`; with the answer comes the connection, if the application switched.
pub(crate) async fn to_application(
    candidate: &Rc<Candidate>,
    mut head: Parts,
    token: &HeaderValue,
    started: Instant,
) -> Result<(Response<ResponseBody>, Option<OnUpgrade>), FailedAttempt> {
    head.headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    head.headers.insert(UPGRADE, token.clone());
    let mut response = http1::send(candidate, head, MessageBody::empty(), started).await?;
    if response.status() != StatusCode::SWITCHING_PROTOCOLS {
        return Ok((response, None));
    }
    let application = hyper::upgrade::on(&mut response);
    let switched = response.extensions_mut().remove::<Switched>();
    let headers = response.headers_mut();
    headers.remove(CONTENT_LENGTH);
    // What it switched to went with everything else of the hop; the client needs it.
    if let Some(Switched(token)) = switched {
        headers.insert(UPGRADE, token);
    }
    Ok((response, Some(application)))
}
