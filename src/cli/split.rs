//! `mipgpu split`: splits a data set into a source and a target domain.

use std::path::PathBuf;

use crate::{
    base::{Error, Result, error::typed},
    cli::{opened::open_data, printer::Printer},
    data::{
        Dataset, digits,
        domains::{Amount, DomainOptions, DomainSummary, Rule, SplitSummary, Which, split_domains},
    },
};

/// The flags of `mipgpu split`.
#[derive(Debug, clap::Args)]
#[command(
    group(clap::ArgGroup::new("rule").required(true).args(["field", "random"])),
    after_help = "\
Examples:
  mipgpu split data/ml-1m --out data/genres --field genres --target-values Action,Crime,Thriller --target-last 14
  mipgpu split data/ml-1m --out data/halves --random 0.5 --seed 7

Creates DIR/source and DIR/target, which are ordinary data sets: `mipgpu train DIR/source`. Each
item belongs to one of them, with its interactions. Users keep their keys and may occur in both.
(The flag --split of `train` is unrelated: it holds out events for validation and test.)"
)]
pub struct Args {
    /// Imported data set
    #[arg(value_name = "DATA")]
    data: PathBuf,
    /// Folder to create; it must not exist yet (see --force)
    #[arg(short, long, value_name = "DIR")]
    out: PathBuf,

    /// Split items by this side field
    #[arg(long, value_name = "FIELD", requires = "target_values", help_heading = "Which items make the target")]
    field: Option<String>,
    /// Values of the target's items, separated by commas (repeat the flag for a value that contains a comma)
    #[arg(long, value_name = "VALUES", requires = "field", help_heading = "Which items make the target")]
    target_values: Vec<String>,
    /// Which value decides for an item with several values
    #[arg(long, value_enum, default_value_t, value_name = "WHICH", help_heading = "Which items make the target")]
    which: Which,
    /// Draw the target's items at random: a share below 1 (0.3), or a number of items
    #[arg(long, value_name = "N", conflicts_with = "target_values", value_parser = amount,
        help_heading = "Which items make the target")]
    random: Option<Amount>,
    /// Seed of --random
    #[arg(long, default_value_t = 1, value_name = "N", help_heading = "Which items make the target")]
    seed: u64,

    /// In the target, keep only the newest N interactions of each user
    #[arg(long, value_name = "N", help_heading = "Cut short")]
    target_last: Option<usize>,
    /// In the source, keep only the newest N interactions of each user
    #[arg(long, value_name = "N", help_heading = "Cut short")]
    source_last: Option<usize>,

    /// Replace an earlier split
    #[arg(long)]
    force: bool,
}

fn amount(text: &str) -> std::result::Result<Amount, String> {
    let wrong = "a share between 0 and 1, such as 0.3, or a number of items from 1 up";
    match text.parse::<usize>() {
        Ok(0) => Err(wrong.into()),
        Ok(n) => Ok(Amount::Items(n)),
        Err(_) => match text.parse::<f64>() {
            Ok(share) if share > 0.0 && share < 1.0 => Ok(Amount::Share(share)),
            _ => Err(wrong.into()),
        },
    }
}

/// Makes the two data sets.
pub fn run(args: Args, printer: Printer) -> Result<()> {
    let data = open_data(&args.data)?;
    let rule = match (args.field, args.random) {
        (Some(field), _) => {
            let values = values_of(&data, &field, &args.target_values);
            Rule::Field { field, values, which: args.which }
        }
        (None, Some(amount)) => Rule::Random { amount, seed: args.seed },
        (None, None) => {
            return Err(Error::user("no rule to split by").hint("use --field with --target-values, or --random"));
        }
    };
    let cancel = super::stop::cancel_on_signal(printer);
    let options = DomainOptions {
        target_last: args.target_last,
        source_last: args.source_last,
        force: args.force,
        cancel: Some(cancel),
        ..DomainOptions::new(rule)
    };
    let summary = split_domains(&data, &args.out, &options)?;
    let out = args.out.display();
    if printer.json {
        printer.event(&serde_json::json!({
            "event": "split", "data": args.data.display().to_string(), "out": out.to_string(),
            "rule": options.rule, "source": summary.source, "target": summary.target,
            "shared_users": summary.shared_users, "valueless_items": summary.valueless_items,
        }));
        return Ok(());
    }
    printer.raw(describe(&out.to_string(), &options.rule, &summary));
    printer.say(format!("next: mipgpu train {}", typed(format!("{out}/source"))));
    Ok(())
}

/// Returns the given values. A text is kept whole if the field has this value, and is split at commas otherwise.
fn values_of(data: &Dataset, field: &str, given: &[String]) -> Vec<String> {
    let field = data.item_fields().get(field);
    let whole = |text: &str| field.is_some_and(|f| f.find(text).is_some());
    let mut values: Vec<String> = Vec::new();
    for text in given {
        let parts = if whole(text) { vec![text.as_str()] } else { text.split(',').map(str::trim).collect() };
        values.extend(parts.into_iter().filter(|v| !v.is_empty()).map(str::to_owned));
    }
    values
}

/// Formats the summary as text.
fn describe(out: &str, rule: &Rule, s: &SplitSummary) -> String {
    let by = match rule {
        Rule::Field { field, which: Which::First, .. } => format!("by the first of an item's {field}"),
        Rule::Field { field, which: Which::Any, .. } => format!("by any of an item's {field}"),
        Rule::Random { seed, .. } => format!("at random, seed {seed}"),
    };
    let mut lines = vec![format!("{out}: two domains, {by}")];
    let domain = |name: &str, d: &DomainSummary| {
        let (users, items, rows) = (digits(d.users), digits(d.items), digits(d.interactions));
        let (short, long) = (d.history[0], digits(d.history[2] as u64));
        let cut = d.last.map_or(String::new(), |n| {
            format!("; newest {} of each user, {} older dropped", digits(n as u64), digits(d.left_out))
        });
        format!(
            "  {name} {users} users, {items} items, {rows} interactions ({short} to {long} per user, median {}{cut})",
            d.history[1]
        )
    };
    lines.push(domain("source", &s.source));
    lines.push(domain("target", &s.target));
    lines.push(format!("  users in both {}", digits(s.shared_users)));
    if s.valueless_items > 0 {
        lines.push(format!("  items without a value of the field, all in the source: {}", digits(s.valueless_items)));
    }
    lines.join("\n") + "\n"
}
