//! Which endpoints a caller uses that knows where it is.

use bowline_proxy::contract::resource::Protocol;

use crate::{application, balancing::who, mesh::Mesh};

#[tokio::test]
async fn requests_stay_in_the_zone_while_it_has_an_endpoint() {
    let (here, there) = (application::http1(2).await, application::http1(5).await);
    let mesh = Mesh::with(here.address, Protocol::Http1, |client, _| client.locality.zone = "here".into());
    let endpoint = |application: &application::Application, zone: &str| {
        let mut endpoint = mesh.endpoint(application.address, "server");
        endpoint.identity = None;
        endpoint.for_zones = vec![zone.into()];
        endpoint
    };
    let mut endpoints = vec![endpoint(&here, "here"), endpoint(&there, "there")];
    mesh.serve(Protocol::Http1, endpoints.clone());
    for _ in 0..30 {
        assert_eq!(who(&mesh).await, here.address.to_string());
    }
    // What the zone has is about to end.
    endpoints[0].draining = true;
    mesh.serve(Protocol::Http1, endpoints);
    assert_eq!(who(&mesh).await, there.address.to_string());
}
