//! Metrics as OpenMetrics text (OpenMetrics 1.0, section "Text Format").

use std::{
    fmt::Write as _,
    sync::{PoisonError, atomic::Ordering::Relaxed},
};

use crate::{
    contract::reason::Reason,
    telemetry::metrics::{BUCKETS, CLASSES, Direction, HttpKey, Metrics},
};

const DIRECTIONS: [Direction; 2] = [Direction::Inbound, Direction::Outbound];

impl Metrics {
    /// Everything in OpenMetrics' text format.
    #[must_use]
    pub fn encode(&self) -> String {
        let mut out = String::with_capacity(16 << 10);
        // Writing into a String cannot fail.
        let _ = http(&mut out, self).and_then(|()| tcp(&mut out, self)).and_then(|()| refused(&mut out, self));
        out.push_str("# EOF\n");
        out
    }
}

fn head(out: &mut String, name: &str, kind: &str, help: &str) -> std::fmt::Result {
    writeln!(out, "# HELP {name} {help}.\n# TYPE {name} {kind}")
}

fn http(out: &mut String, m: &Metrics) -> std::fmt::Result {
    let mut all: Vec<_> =
        m.http.lock().unwrap_or_else(PoisonError::into_inner).iter().map(|(k, v)| (k.clone(), v.clone())).collect();
    all.sort_by(|a, b| a.0.cmp(&b.0));
    let labels = |(direction, service, peer): &HttpKey| {
        format!("direction=\"{}\",service=\"{}\",peer=\"{}\"", direction.as_str(), escaped(service), escaped(peer))
    };
    head(out, "bowline_http_requests", "counter", "Requests answered")?;
    for (key, series) in &all {
        for (class, count) in CLASSES.iter().zip(&series.classes) {
            let count = count.load(Relaxed);
            if count > 0 {
                writeln!(out, "bowline_http_requests_total{{{},status_class=\"{class}\"}} {count}", labels(key))?;
            }
        }
    }
    head(out, "bowline_http_request_duration_seconds", "histogram", "Time to the end of the answer")?;
    for (key, series) in &all {
        let labels = labels(key);
        let mut total = 0;
        for (i, count) in series.buckets.iter().enumerate() {
            total += count.load(Relaxed);
            let bound = BUCKETS.get(i).map_or("+Inf".to_owned(), |b| (*b as f64 / 1e6).to_string());
            writeln!(out, "bowline_http_request_duration_seconds_bucket{{{labels},le=\"{bound}\"}} {total}")?;
        }
        let sum = series.micros.load(Relaxed) as f64 / 1e6;
        writeln!(out, "bowline_http_request_duration_seconds_sum{{{labels}}} {sum}")?;
        writeln!(out, "bowline_http_request_duration_seconds_count{{{labels}}} {total}")?;
    }
    Ok(())
}

fn tcp(out: &mut String, m: &Metrics) -> std::fmt::Result {
    let mut all: Vec<_> = m
        .tcp
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .iter()
        .map(|(k, v)| (k.clone(), v.load(Relaxed)))
        .collect();
    all.sort();
    head(out, "bowline_tcp_connections", "counter", "Connections that carried opaque bytes")?;
    for ((direction, service, peer, tls), count) in &all {
        let (d, service, peer) = (direction.as_str(), escaped(service), escaped(peer));
        writeln!(
            out,
            "bowline_tcp_connections_total{{direction=\"{d}\",service=\"{service}\",peer=\"{peer}\",tls=\"{tls}\"}} {count}"
        )?;
    }
    head(out, "bowline_tcp_open_connections", "gauge", "Connections that are open now")?;
    for d in DIRECTIONS {
        let open = m.flow(d).open.load(Relaxed);
        writeln!(out, "bowline_tcp_open_connections{{direction=\"{}\"}} {open}", d.as_str())?;
    }
    head(out, "bowline_tcp_bytes", "counter", "Opaque bytes, received from and sent to the one who connected")?;
    for d in DIRECTIONS {
        for (flow, count) in [("received", &m.flow(d).received), ("sent", &m.flow(d).sent)] {
            let count = count.load(Relaxed);
            writeln!(out, "bowline_tcp_bytes_total{{direction=\"{}\",flow=\"{flow}\"}} {count}", d.as_str())?;
        }
    }
    Ok(())
}

fn refused(out: &mut String, m: &Metrics) -> std::fmt::Result {
    head(out, "bowline_refused", "counter", "Requests and connections that were refused or failed")?;
    for d in DIRECTIONS {
        for reason in Reason::ALL {
            let count = m.refused_count(d, reason);
            if count > 0 {
                let (d, reason) = (d.as_str(), reason.as_str());
                writeln!(out, "bowline_refused_total{{direction=\"{d}\",reason=\"{reason}\"}} {count}")?;
            }
        }
    }
    Ok(())
}

fn escaped(label: &str) -> String {
    label.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}
