//! `weir explain`: whether one end may reach another, and what decides it; asked of the agents, or of manifests.

use std::path::PathBuf;
use std::process::ExitCode;

use ::sandbox::explain::{Explainer, planned};
use ::sandbox::plan::Options;
use ::sandbox::{assemble, client, manifest};
use anyhow::Result;
use api::{ExplainQuery, Explanation, Side, VerdictKind};

use crate::agents::{Which, block_on, unless_closed};
use crate::columns::{Tone, toned};
use crate::format::Format;

#[derive(clap::Args)]
#[command(after_help = AFTER)]
pub(crate) struct Args {
    /// Who connects: NAMESPACE/NAME of a pod or workload, node/NAME, outside, or an address
    #[arg(long, value_name = "END")]
    from: String,
    /// To whom: as --from, or NAMESPACE/NAME of a Service
    #[arg(long, value_name = "END")]
    to: String,
    /// A number or the name of a port, and the protocol where it is not TCP; or icmp
    #[arg(long, value_name = "PORT[/PROTOCOL]")]
    port: String,
    /// Answer from these files and folders, without an agent; `-` is standard input
    #[arg(
        short = 'f',
        long = "filename",
        value_name = "MANIFESTS",
        num_args = 1..,
        conflicts_with_all = ["socket", "sandbox"]
    )]
    files: Vec<PathBuf>,
    /// `json` is a list with an object for each different answer
    #[arg(short, long, value_name = "FORMAT", default_value = "table")]
    output: Format,
    #[command(flatten)]
    which: Which,
}

const AFTER: &str = "\
A name may have its kind before it: deployment/shop/web. Where replicas, or IPv4 and IPv6, have different answers, each \
is shown.

Exit status: 0 if all of it is allowed, 1 if any of it is denied, 2 if there is no answer.";

pub(crate) fn run(args: Args) -> Result<ExitCode> {
    let query = ExplainQuery { from: args.from, to: args.to, port: args.port };
    let answers = match args.files.is_empty() {
        true => live(&query, &args.which),
        false => offline(&query, args.files),
    };
    let answers = match answers {
        Ok(answers) => answers,
        Err(error) => {
            eprintln!("weir: {error:#}");
            return Ok(ExitCode::from(2));
        }
    };
    unless_closed(print(&answers, args.output))?;
    let allowed = answers.iter().all(|answer| answer.verdict == VerdictKind::Allowed);
    Ok(if allowed { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn offline(query: &ExplainQuery, files: Vec<PathBuf>) -> Result<Vec<Explanation>> {
    let options = Options::new(files);
    let sources = manifest::sources(&options.files, None)?;
    let cast = assemble::assemble(manifest::parse(&sources)?, &options, None)?;
    let ips = planned(&cast);
    Ok(Explainer::new(&cast, &ips, manifest::places(&sources)).ask(query)?)
}

fn live(query: &ExplainQuery, which: &Which) -> Result<Vec<Explanation>> {
    let mut text = form_urlencoded::Serializer::new(String::new());
    text.append_pair("from", &query.from).append_pair("to", &query.to).append_pair("port", &query.port);
    let path = format!("/v1/explain?{}", text.finish());
    let sockets = which.sockets()?;
    block_on(async {
        let mut all = Vec::new();
        for socket in &sockets {
            merge(&mut all, client::get::<Vec<Explanation>>(socket, &path).await?);
        }
        Ok(all)
    })
}

/// Agents that say the same say it once, with all that any of them notes.
fn merge(all: &mut Vec<Explanation>, more: Vec<Explanation>) {
    for answer in more {
        let without_notes = |answer: &Explanation| Explanation { notes: Vec::new(), ..answer.clone() };
        match all.iter_mut().find(|known| without_notes(known) == without_notes(&answer)) {
            Some(known) => {
                let news = answer.notes.into_iter().filter(|note| !known.notes.contains(note));
                let news: Vec<_> = news.collect();
                known.notes.extend(news);
            }
            None => all.push(answer),
        }
    }
}

fn print(answers: &[Explanation], format: Format) -> Result<()> {
    format.print(&answers, |colour| {
        let texts: Vec<String> = answers.iter().map(|answer| text(answer, colour)).collect();
        texts.join("\n")
    })
}

fn text(answer: &Explanation, colour: bool) -> String {
    let verdict = |verdict: VerdictKind| match verdict {
        VerdictKind::Allowed => toned("allowed", Tone::Good, colour),
        VerdictKind::Denied => toned("denied", Tone::Bad, colour),
    };
    let port = if answer.port == 0 { String::new() } else { format!("/{}", answer.port) };
    let mut text =
        format!("{} → {}  {}{port}  {}\n", answer.from, answer.to, answer.protocol, verdict(answer.verdict));
    let mut side = |direction: &str, end: &api::End, side: &Side| {
        let name = end.name.clone().unwrap_or_else(|| end.ip.to_string());
        text += &format!("  {direction} of {name}: {}\n    {side}\n", verdict(side.verdict));
        if let Some(miss) = &side.nearest {
            text += &format!("    nearest: {}\n", miss.sentence);
            let at = miss.rule.at.as_ref().map(|at| format!(", {at}")).unwrap_or_default();
            let rule = format!("      {} of {}{at}", miss.rule.path, miss.rule.policy);
            text += &format!("{}\n", toned(&rule, Tone::Quiet, colour));
        }
    };
    side("egress", &answer.from, &answer.egress);
    side("ingress", &answer.to, &answer.ingress);
    answer.notes.iter().for_each(|note| text += &format!("  note: {note}\n"));
    text
}

#[cfg(test)]
mod tests {
    use api::{End, Miss, PolicyPlace, Reason, RulePlace};

    use super::*;

    fn denied() -> Explanation {
        let end = |name: &str, ip: &str| End { ip: ip.parse().unwrap(), name: Some(name.into()) };
        let open = Side {
            verdict: VerdictKind::Allowed,
            reason: Reason::NotIsolated,
            policies: Vec::new(),
            rule: None,
            nearest: None,
        };
        let rule = RulePlace {
            policy: "shop/allow-web".into(),
            path: "spec.ingress[0]".into(),
            at: Some("web.yaml:9".into()),
        };
        let closed = Side {
            verdict: VerdictKind::Denied,
            reason: Reason::DefaultDeny,
            policies: vec![PolicyPlace { name: "shop/allow-web".into(), at: Some("web.yaml:1".into()) }],
            rule: None,
            nearest: Some(Miss {
                rule,
                sentence: "policy shop/allow-web allows port 80, you asked 8080".into(),
            }),
        };
        Explanation {
            from: end("shop/client", "10.244.0.6"),
            to: end("shop/web", "10.244.0.5"),
            protocol: "TCP".into(),
            port: 8080,
            verdict: VerdictKind::Denied,
            egress: open,
            ingress: closed,
            notes: vec!["nobody listens there".into()],
        }
    }

    #[test]
    fn an_answer_shows_both_directions_and_the_nearest_miss() {
        let expected = "\
shop/client (10.244.0.6) → shop/web (10.244.0.5)  TCP/8080  denied
  egress of shop/client: allowed
    no policy isolates the pod in this direction
  ingress of shop/web: denied
    shop/allow-web (web.yaml:1) isolates the pod, and no rule of it allows this
    nearest: policy shop/allow-web allows port 80, you asked 8080
      spec.ingress[0] of shop/allow-web, web.yaml:9
  note: nobody listens there
";
        assert_eq!(text(&denied(), false), expected);
    }

    #[test]
    fn agents_that_say_the_same_say_it_once_and_every_note_is_kept() {
        let noted = |note: &str| Explanation { notes: vec![note.into()], ..denied() };
        let mut all = Vec::new();
        for note in ["one", "other", "one"] {
            merge(&mut all, vec![noted(note)]);
        }
        assert_eq!(all.len(), 1);
        assert_eq!(all[0].notes, ["one", "other"]);
        merge(&mut all, vec![Explanation { port: 81, ..denied() }]);
        assert_eq!(all.len(), 2);
    }
}
