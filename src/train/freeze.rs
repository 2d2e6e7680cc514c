//! What of a network stays as it is while the rest is trained.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::layers::Patch;

/// What is not trained: layers, and tables by whose rows they are. Patches and what answers a task are trained in any case.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Freeze {
    /// All that is no table.
    pub network: bool,
    pub items: bool,
    pub users: bool,
    pub fields: bool,
}

impl Freeze {
    /// All is trained.
    pub const NONE: Freeze = Freeze { network: false, items: false, users: false, fields: false };
    /// Tables and patches are trained.
    pub const NETWORK: Freeze = Freeze { network: true, ..Freeze::NONE };
    /// Patches are trained.
    pub const ALL: Freeze = Freeze { network: true, items: true, users: true, fields: true };

    /// Parts of the names of parameters that are trained; `None`: all are.
    pub fn trained(self) -> Option<Vec<&'static str>> {
        if !self.network {
            return None;
        }
        // What answers a task is new wherever the task is.
        let tables = [(self.items, "item."), (self.users, "user."), (self.fields, "field.")];
        let trained = tables.into_iter().filter(|(frozen, _)| !frozen).map(|(_, name)| name);
        Some([Patch::NAME, ".head."].into_iter().chain(trained).collect())
    }
}

impl fmt::Display for Freeze {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if *self == Freeze::NONE || *self == Freeze::ALL {
            return f.write_str(if self.network { "all" } else { "none" });
        }
        let parts = [(self.network, "network"), (self.items, "items"), (self.users, "users"), (self.fields, "fields")];
        let named: Vec<&str> = parts.into_iter().filter(|(frozen, _)| *frozen).map(|(_, name)| name).collect();
        f.write_str(&named.join(","))
    }
}

impl FromStr for Freeze {
    type Err = String;
    fn from_str(text: &str) -> Result<Freeze, String> {
        let mut freeze = Freeze::NONE;
        match text {
            "none" => return Ok(freeze),
            "all" => return Ok(Freeze::ALL),
            _ => {}
        }
        for part in text.split(',') {
            match part.trim() {
                "network" => freeze.network = true,
                "items" => freeze.items = true,
                "users" => freeze.users = true,
                "fields" => freeze.fields = true,
                other => return Err(format!("'{other}' is none of none, all, network, items, users, fields")),
            }
        }
        if !freeze.network {
            return Err("tables are frozen together with the network alone: network,items".into());
        }
        Ok(freeze)
    }
}

impl TryFrom<String> for Freeze {
    type Error = String;
    fn try_from(text: String) -> Result<Freeze, String> {
        text.parse()
    }
}

impl From<Freeze> for String {
    fn from(freeze: Freeze) -> String {
        freeze.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_written_as_it_is_read() {
        for text in ["none", "all", "network", "network,items", "network,users,fields"] {
            assert_eq!(text.parse::<Freeze>().unwrap().to_string(), text);
        }
        assert_eq!("network,items,users,fields".parse::<Freeze>().unwrap(), Freeze::ALL);
        assert!("items".parse::<Freeze>().is_err() && "networks".parse::<Freeze>().is_err());
        assert_eq!("network, items".parse::<Freeze>().unwrap().trained().unwrap()[2..], ["user.", "field."]);
    }
}
