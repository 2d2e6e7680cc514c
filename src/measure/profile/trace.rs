/*! A trace in the JSON of Chrome's `about:tracing`, which Perfetto (ui.perfetto.dev) reads: complete events (`ph` X)
in microseconds on named tracks. The events of a track are in order and never overlap.
*/

use std::io::{self, Write};

use serde_json::json;

use super::Profile;

/// A time interval.
#[derive(Clone, Debug)]
pub struct TraceEvent {
    pub name: &'static str,
    /// Start and end in seconds from the beginning of the pass.
    pub at: [f64; 2],
    /// Details of an op's call.
    pub call: Option<CallDetails>,
}

/// The layer and sizes of a call (if known), and its work.
#[derive(Clone, Debug)]
pub struct CallDetails {
    pub layer: String,
    pub sizes: String,
    pub flop: f64,
    pub bytes: f64,
}

impl TraceEvent {
    pub(super) fn new(name: &'static str, at: [f64; 2]) -> Self {
        TraceEvent { name, at, call: None }
    }
}

/// A named sequence of events.
#[derive(Clone, Debug)]
pub struct Track {
    /// The pass of these events.
    pub pass: &'static str,
    pub name: &'static str,
    pub events: Vec<TraceEvent>,
}

impl Track {
    pub(super) fn new(pass: &'static str, name: &'static str, events: Vec<TraceEvent>) -> Self {
        Track { pass, name, events }
    }
}

/// Writes the trace, one event per line.
///
/// # Errors
/// Those of `out`.
pub fn write(profile: &Profile, out: &mut dyn Write) -> io::Result<()> {
    let other = json!({ "program": profile.program, "profile": profile.title(), "device": profile.device });
    write!(out, "{{\"displayTimeUnit\":\"ms\",\"otherData\":{other},\"traceEvents\":[")?;
    let mut passes: Vec<&str> = Vec::new();
    let mut first = true;
    let mut line = |out: &mut dyn Write, event: serde_json::Value| {
        write!(out, "{}{event}", if std::mem::take(&mut first) { "\n" } else { ",\n" })
    };
    for (tid, track) in profile.tracks.iter().enumerate() {
        let pid = passes.iter().position(|p| *p == track.pass).unwrap_or_else(|| {
            passes.push(track.pass);
            passes.len() - 1
        });
        let (pid, tid) = (pid + 1, tid + 1);
        for (what, name) in [("process_name", track.pass), ("thread_name", track.name)] {
            line(out, json!({ "name": what, "ph": "M", "pid": pid, "tid": tid, "args": { "name": name } }))?;
        }
        line(
            out,
            json!({ "name": "thread_sort_index", "ph": "M", "pid": pid, "tid": tid, "args": { "sort_index": tid } }),
        )?;
        // Both ends are rounded, so that events do not overlap after rounding either.
        let nanoseconds = |seconds: f64| (seconds * 1e9).round();
        let mut free = f64::NEG_INFINITY;
        for event in &track.events {
            let from = nanoseconds(event.at[0]).max(free);
            let to = nanoseconds(event.at[1]).max(from);
            free = to;
            let mut args = serde_json::Map::new();
            if let Some(CallDetails { layer, sizes, flop, bytes }) = &event.call {
                let words = [("layer", layer), ("sizes", sizes)].into_iter().filter(|(_, value)| !value.is_empty());
                args.extend(words.map(|(key, value)| (key.to_string(), value.as_str().into())));
                args.extend([("flop", flop), ("bytes", bytes)].map(|(key, value)| (key.to_string(), (*value).into())));
            }
            line(
                out,
                json!({
                    "name": event.name, "cat": track.name, "ph": "X", "pid": pid, "tid": tid,
                    "ts": from / 1e3, "dur": (to - from) / 1e3, "args": args,
                }),
            )?;
        }
    }
    out.write_all(b"\n]}\n")
}
