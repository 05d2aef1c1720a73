use super::*;

#[test]
fn every_reason_has_a_counter_of_its_own() {
    let m = Metrics::new();
    for (n, reason) in Reason::ALL.into_iter().enumerate() {
        for _ in 0..=n {
            m.refused(Direction::Inbound, reason);
        }
    }
    for (n, reason) in Reason::ALL.into_iter().enumerate() {
        assert_eq!(m.refused_count(Direction::Inbound, reason), n as u64 + 1);
        assert_eq!(m.refused_count(Direction::Outbound, reason), 0);
    }
}

#[test]
fn requests_are_told_by_class_and_latency() {
    let m = Metrics::new();
    let series = m.http(Direction::Outbound, "shop/web", "spiffe://td/ns/shop/sa/web");
    series.answered(http::StatusCode::OK);
    series.answered(http::StatusCode::NOT_FOUND);
    series.took(Duration::from_millis(3));
    series.took(Duration::from_secs(60));
    let text = m.encode();
    let labels = r#"direction="outbound",service="shop/web",peer="spiffe://td/ns/shop/sa/web""#;
    for line in [
        format!("bowline_http_requests_total{{{labels},status_class=\"2xx\"}} 1\n"),
        format!("bowline_http_requests_total{{{labels},status_class=\"4xx\"}} 1\n"),
        format!("bowline_http_request_duration_seconds_bucket{{{labels},le=\"0.0025\"}} 0\n"),
        format!("bowline_http_request_duration_seconds_bucket{{{labels},le=\"0.005\"}} 1\n"),
        format!("bowline_http_request_duration_seconds_bucket{{{labels},le=\"+Inf\"}} 2\n"),
        format!("bowline_http_request_duration_seconds_count{{{labels}}} 2\n"),
    ] {
        assert!(text.contains(&line), "{line} is missing in\n{text}");
    }
    assert!(text.ends_with("# EOF\n"));
}

#[test]
fn label_sets_are_bounded() {
    let m = Metrics::new();
    for n in 0..3000 {
        for d in [Direction::Inbound, Direction::Outbound] {
            let series = m.http(d, &format!("ns/{n}"), PLAINTEXT);
            for status in [100, 200, 300, 400, 500] {
                series.answered(http::StatusCode::from_u16(status).unwrap());
            }
            m.tcp(d, &format!("ns/{n}"), PLAINTEXT, n % 2 == 0).fetch_add(1, Relaxed);
        }
    }
    let text = m.encode();
    for metric in ["bowline_http_requests_total", "bowline_tcp_connections_total"] {
        let lines: Vec<_> = text.lines().filter(|l| l.starts_with(metric)).collect();
        assert!(lines.len() <= MAX_LABEL_SETS, "{metric}: {}", lines.len());
        assert!(lines.iter().any(|l| l.contains("service=\"other\"")));
    }
}
