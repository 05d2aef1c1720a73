use std::{rc::Rc, sync::Arc};

use super::*;
use crate::{contract::reason::Reason, data_path::http::server};

#[tokio::test]
async fn what_is_kept_for_each_request_and_connection_is_small() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let stream = tokio::net::TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let io = crate::data_path::buffer::prefixed::Prefixed::new(bytes::Bytes::new(), stream);
    let (context, _) = ConnectionContext::to_address(([127, 0, 0, 1], 1).into(), 1);
    let drain = Arc::clone(&context.drain).watch();
    let context = Rc::new(context);
    let (head, ()) = Request::new(()).into_parts();
    let request = exchange(&context, head, MessageBody::empty(), Instant::now());
    let connection = server::http1::serve(Rc::clone(&context), io, drain, Rc::default());
    let sizes = [
        ("request", size_of_val(&request), 2048),
        ("body", size_of::<ResponseBody>(), 256),
        ("HTTP/1 connection", size_of_val(&connection), 6144),
    ];
    for (what, size, most) in sizes {
        assert!(size <= most, "{what}: {size} bytes, at most {most} are meant");
    }
}

#[tokio::test]
async fn an_endpoint_is_not_to_blame_for_the_bound_of_this_proxy() {
    for (most, reason, avoided) in [(0, Reason::Overloaded, false), (1, Reason::ConnectFailed, true)] {
        // Nobody listens there.
        let (context, endpoint) = ConnectionContext::to_address(([127, 0, 0, 1], 1).into(), most);
        let (head, ()) = Request::new(()).into_parts();
        let Err(failure) = exchange(&context, head, MessageBody::empty(), Instant::now()).await else {
            panic!("nobody answers");
        };
        assert_eq!(failure.reason, reason, "{failure}");
        let now = Instant::now();
        assert_eq!(endpoint.load.is_ejected(now), avoided, "{failure}");
        assert_eq!(endpoint.load.cost(now) >= 1e6, avoided, "{failure}: {}", endpoint.load.cost(now));
    }
}
