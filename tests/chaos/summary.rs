//! What a run prints at its end.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::time::Duration;

use super::endpoint::Heard;
use super::liveness;
use super::run::Run;
use super::variant::Variant;
use super::verdict::{Fault, Seen, Sums};
use super::workers::STAGES;

/// The summary. Of the times, the first is how long faults came, the second how long all of it took.
pub fn of(
    seed: &u64,
    variant: &Variant,
    run: &Run,
    seen: &[Seen],
    faults: &[Fault],
    [suffered, all]: [Duration; 2],
) -> String {
    let mut text = format!("---- chaos: seed {seed}, variant {variant}\n");
    let mut line = |name: &str, what: String| writeln!(text, "{name:<12}{what}").expect("a text takes all");
    let minutes = |time: Duration| format!("{:.1} min", time.as_secs_f64() / 60.0);
    line("time", format!("{} of faults, {} in all", minutes(suffered), minutes(all)));
    let counts: Vec<_> = run.counts().iter().map(|(kind, count)| format!("{count} × {kind}")).collect();
    line("faults", format!("{}: {}", run.history.len(), counts.join(", ")));
    for (seen, name) in seen.iter().zip(["records", "compacted"]) {
        let Sums { records, superseded, aborted, calls, cut_off, retries, dead_letters, .. } = Sums::of(seen);
        let Sums { repeated_calls, repeated_routes, unanswered, .. } = Sums::of(seen);
        line(name, format!("{records} readable, {superseded} compacted away, {aborted} aborted"));
        line("", format!("{calls} calls, of which {cut_off} cut off, {repeated_calls} repeated"));
        line(
            "",
            format!(
                "{retries} retry records, {dead_letters} dead letters; {repeated_routes} repeated, {unanswered} without an answer"
            ),
        );
    }
    line(
        "stops",
        format!("{} could not finish, each while a broker was away or a topic refused records", run.unfinished_stops()),
    );
    let seconds = |spans: &[(i64, i64)]| spans.iter().map(|(from, until)| until - from).sum::<i64>() as f64 / 1_000.0;
    line("quiet", format!("{:.0} s, in which hand-over is judged", seconds(&run.quiet_times())));
    let calm: Vec<_> = seen.iter().map(|seen| format!("{:.0} s", seconds(&seen.calm))).collect();
    line("calm", format!("{}, in which it is judged whether the others go on", calm.join(" and ")));
    let longest = seen.iter().flat_map(liveness::longest).fold(BTreeMap::new(), |mut longest, (what, millis)| {
        let most: &mut i64 = longest.entry(what).or_default();
        *most = millis.max(*most);
        longest
    });
    let longest: Vec<_> =
        longest.iter().map(|(what, millis)| format!("{what} {:.1} s", *millis as f64 / 1_000.0)).collect();
    line("", format!("at the longest, what others wait for: {}", longest.join(", ")));
    let peak = |stage| run.workers.iter().filter(|worker| worker.stage == stage).map(|worker| worker.peak).max();
    let peaks = STAGES.map(|(stage, _)| format!("{stage} {} MiB", peak(stage).unwrap_or_default()));
    line("memory", format!("at the peak of any worker: {}", peaks.join(", ")));
    let standstills = run.standstills.all();
    line("machine", format!("stood still {} times, {:.1} s in all", standstills.len(), seconds(&standstills)));
    line("stall", format!("{:.1} s without a call, at most", longest_stall(&run.endpoint.calls()) as f64 / 1_000.0));
    line("found", counted(faults));
    for promise in Fault::PROMISES {
        let count = faults.iter().filter(|fault| fault.promise() == promise).count();
        line("violations", format!("{count} of `{promise}`"));
    }
    text
}

const NOTHING: &str = "nothing";

/// How often each fault was found.
fn counted<'a>(faults: impl IntoIterator<Item = &'a Fault>) -> String {
    let mut names: BTreeMap<_, usize> = BTreeMap::new();
    faults.into_iter().for_each(|fault| *names.entry(fault.name()).or_default() += 1);
    let names: Vec<_> = names.iter().map(|(name, count)| format!("{name} × {count}")).collect();
    if names.is_empty() { NOTHING.to_owned() } else { names.join(", ") }
}

/// The longest time between two calls, in milliseconds.
fn longest_stall(calls: &[Heard]) -> i64 {
    let mut began: Vec<_> = calls.iter().map(|call| call.began).collect();
    began.sort_unstable();
    began.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap_or_default()
}
