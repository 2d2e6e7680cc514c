//! The flags that define the split into training, validation and test, shared by all commands that split.

use crate::{
    base::{Error, Result},
    data::{Dataset, cut::parse_cut, split::SplitSpec},
};

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum SplitKind {
    /// Test: a user's last event; validation: the event before it
    LeaveOneOut,
    /// Test: a user's last --test-n events; validation: the --valid-n events before them
    LastN,
    /// Test: the last --test-share of a user's events; validation: the --valid-share before them
    Ratio,
    /// Test: a user's last basket; validation: the basket before it
    LastBasket,
    /// Test: events from --cut on; validation: events from --valid-cut on; baskets defined by a column stay whole
    Time,
}

#[derive(Clone, Debug, Default, clap::Args)]
#[command(next_help_heading = "Split")]
pub struct SplitFlags {
    /// How events are split into training, validation and test [default: leave-one-out (last-basket for
    /// --task next-basket), or that of the run]
    #[arg(long, value_enum, value_name = "RULE")]
    pub split: Option<SplitKind>,
    /// With --split last-n: test events per user [default: 1]
    #[arg(long, value_name = "N")]
    pub test_n: Option<usize>,
    /// With --split last-n: validation events per user [default: 1]
    #[arg(long, value_name = "N")]
    pub valid_n: Option<usize>,
    /// With --split ratio: test share of a user's events, at least one event [default: 0.1]
    #[arg(long, value_name = "SHARE")]
    pub test_share: Option<f64>,
    /// With --split ratio: validation share of a user's events; 0: none [default: 0.1]
    #[arg(long, value_name = "SHARE")]
    pub valid_share: Option<f64>,
    /// With --split time: start of the test part; a date (UTC) or a number in the unit of the timestamps
    #[arg(long, value_name = "DATE", allow_hyphen_values = true)]
    pub cut: Option<String>,
    /// With --split time: start of the validation part [default: the latest tenth of the events before --cut]
    #[arg(long, value_name = "DATE", allow_hyphen_values = true)]
    pub valid_cut: Option<String>,
}

impl SplitFlags {
    /// Returns the name of the first given flag, without leading dashes.
    pub fn first_given(&self) -> Option<&'static str> {
        let given = [
            (self.split.is_some(), "split"),
            (self.test_n.is_some(), "test-n"),
            (self.valid_n.is_some(), "valid-n"),
            (self.test_share.is_some(), "test-share"),
            (self.valid_share.is_some(), "valid-share"),
            (self.cut.is_some(), "cut"),
            (self.valid_cut.is_some(), "valid-cut"),
        ];
        given.into_iter().find_map(|(given, name)| given.then_some(name))
    }

    /// Overrides the flags of a settings file with these flags. If these flags name a kind of split, values of the file
    /// for other kinds are dropped.
    pub fn over(&self, file: &SplitFlags) -> SplitFlags {
        let fits = |kind| self.split.is_none_or(|own| own == kind);
        fn pick<T: Clone>(own: &Option<T>, file: &Option<T>, fits: bool) -> Option<T> {
            own.clone().or_else(|| file.clone().filter(|_| fits))
        }
        let [last_n, ratio, time] = [SplitKind::LastN, SplitKind::Ratio, SplitKind::Time].map(fits);
        SplitFlags {
            split: self.split.or(file.split),
            test_n: pick(&self.test_n, &file.test_n, last_n),
            valid_n: pick(&self.valid_n, &file.valid_n, last_n),
            test_share: pick(&self.test_share, &file.test_share, ratio),
            valid_share: pick(&self.valid_share, &file.valid_share, ratio),
            cut: pick(&self.cut, &file.cut, time),
            valid_cut: pick(&self.valid_cut, &file.valid_cut, time),
        }
    }

    /// Returns the flags that define `spec`.
    pub fn args(spec: SplitSpec) -> Vec<String> {
        let flags: Vec<(&str, String)> = match spec {
            SplitSpec::LeaveOneOut => vec![("--split", "leave-one-out".into())],
            SplitSpec::LastN { valid, test } => {
                vec![("--split", "last-n".into()), ("--valid-n", valid.to_string()), ("--test-n", test.to_string())]
            }
            SplitSpec::Ratio { valid, test } => vec![
                ("--split", "ratio".into()),
                ("--valid-share", valid.to_string()),
                ("--test-share", test.to_string()),
            ],
            SplitSpec::LastBasket => vec![("--split", "last-basket".into())],
            SplitSpec::Time { cut, valid_cut } => {
                let valid = valid_cut.map(|cut| ("--valid-cut", cut.to_string()));
                [("--split", "time".to_string()), ("--cut", cut.to_string())].into_iter().chain(valid).collect()
            }
        };
        flags.into_iter().flat_map(|(flag, value)| [flag.to_string(), value]).collect()
    }

    /// Returns the split that the flags define, or `None` if none is given. Dates are converted to the unit of the
    /// timestamps of `data`.
    ///
    /// # Errors
    /// A flag belongs to another kind of split, or the cut is missing or malformed.
    pub fn spec(&self, data: &Dataset) -> Result<Option<SplitSpec>> {
        let refuse = |given: bool, flag: &str, kind: &str| {
            if given {
                return Err(Error::user(format!("{flag} is for --split {kind}"))
                    .hint(format!("add --split {kind} or omit {flag}")));
            }
            Ok(())
        };
        if self.split != Some(SplitKind::LastN) {
            refuse(self.test_n.is_some(), "--test-n", "last-n")?;
            refuse(self.valid_n.is_some(), "--valid-n", "last-n")?;
        }
        if self.split != Some(SplitKind::Ratio) {
            refuse(self.test_share.is_some(), "--test-share", "ratio")?;
            refuse(self.valid_share.is_some(), "--valid-share", "ratio")?;
        }
        if self.split != Some(SplitKind::Time) {
            refuse(self.cut.is_some(), "--cut", "time")?;
            refuse(self.valid_cut.is_some(), "--valid-cut", "time")?;
        }
        Ok(match self.split {
            None => None,
            Some(SplitKind::LeaveOneOut) => Some(SplitSpec::LeaveOneOut),
            Some(SplitKind::LastN) => {
                Some(SplitSpec::LastN { valid: self.valid_n.unwrap_or(1), test: self.test_n.unwrap_or(1) })
            }
            Some(SplitKind::Ratio) => {
                Some(SplitSpec::Ratio { valid: self.valid_share.unwrap_or(0.1), test: self.test_share.unwrap_or(0.1) })
            }
            Some(SplitKind::LastBasket) => Some(SplitSpec::LastBasket),
            Some(SplitKind::Time) => {
                let ticks = data.ticks_per_second();
                let cut = self.cut.as_ref().ok_or_else(|| {
                    Error::user("--split time requires --cut").hint("add --cut DATE, such as --cut 2003-01-31")
                })?;
                let valid_cut = self.valid_cut.as_ref().map(|c| parse_cut(c, ticks).map_err(|e| e.at("--valid-cut")));
                Some(SplitSpec::Time {
                    cut: parse_cut(cut, ticks).map_err(|e| e.at("--cut"))?,
                    valid_cut: valid_cut.transpose()?,
                })
            }
        })
    }
}
