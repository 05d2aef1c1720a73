//! The process's own figures, under the names that Prometheus' client libraries gave them.

use std::{fs, sync::OnceLock, time::Duration};

/// Kernel's clock ticks a second in `/proc`: fixed at 100 for user space on every architecture of ours.
const TICKS: u64 = 100;

/// Writes them by `put(name, type, help, value)`; what `/proc` does not tell is left out.
pub(super) fn write(put: &mut impl FnMut(&str, &str, &str, String)) {
    if let Some((cpu, virtual_bytes, resident_bytes)) =
        fs::read_to_string("/proc/self/stat").ok().and_then(|s| parse(&s))
    {
        put("process_cpu_seconds_total", "counter", "Processor time used", format!("{:.2}", cpu.as_secs_f64()));
        put("process_virtual_memory_bytes", "gauge", "Virtual memory", virtual_bytes.to_string());
        put("process_resident_memory_bytes", "gauge", "Resident memory", resident_bytes.to_string());
    }
    if let Ok(open) = fs::read_dir("/proc/self/fd") {
        put("process_open_fds", "gauge", "Open file descriptors", open.count().to_string());
    }
    put("process_start_time_seconds", "gauge", "Start of this slot's service, Unix time", started().to_string());
}

fn started() -> i64 {
    static STARTED: OnceLock<i64> = OnceLock::new();
    *STARTED.get_or_init(crate::identity::clock::unix_seconds)
}

/// Processor time, virtual and resident bytes from `/proc/self/stat` (proc(5)).
fn parse(stat: &str) -> Option<(Duration, u64, u64)> {
    // The program's name may hold anything, blanks and brackets included; fields are counted from its end.
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let field = |number: usize| fields.get(number - 3)?.parse::<u64>().ok();
    let ticks = field(14)? + field(15)?;
    let page = rustix::param::page_size() as u64;
    Some((Duration::from_millis(ticks * 1000 / TICKS), field(23)?, field(24)? * page))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_read_whatever_the_name() {
        let fields = (3..=52).map(|n| n.to_string()).collect::<Vec<_>>().join(" ");
        let (cpu, virtual_bytes, resident) = parse(&format!("7 (a) b) {fields}")).unwrap();
        assert_eq!(cpu, Duration::from_millis(290));
        assert_eq!((virtual_bytes, resident), (23, 24 * rustix::param::page_size() as u64));
        assert!(parse("7 (a").is_none() && parse("").is_none());
    }

    #[test]
    fn this_process_has_figures() {
        let mut names = Vec::new();
        write(&mut |name: &str, _: &str, _: &str, value: String| {
            assert!(value.parse::<f64>().is_ok(), "{name} {value}");
            names.push(name.to_owned());
        });
        assert!(names.contains(&"process_resident_memory_bytes".to_owned()), "{names:?}");
        assert!(names.contains(&"process_open_fds".to_owned()));
    }
}
