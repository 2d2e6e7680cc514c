//! The parts of a network that are not trained.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::layers::Patch;

/// The frozen parts: the network, and tables by the kind of their rows. Patches and the head of a task are
/// always trained.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Freeze {
    /// Everything except the tables.
    pub network: bool,
    pub items: bool,
    pub users: bool,
    pub fields: bool,
}

impl Freeze {
    /// Everything is trained.
    pub const NONE: Freeze = Freeze { network: false, items: false, users: false, fields: false };
    /// Only tables and patches are trained.
    pub const NETWORK: Freeze = Freeze { network: true, ..Freeze::NONE };
    /// Only patches are trained.
    pub const ALL: Freeze = Freeze { network: true, items: true, users: true, fields: true };

    /// Returns substrings of the names of trained parameters; `None` if all are trained.
    pub fn trained(self) -> Option<Vec<&'static str>> {
        if !self.network {
            return None;
        }
        // The head of a task is new whenever the task is.
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
                other => return Err(format!("'{other}' is not one of none, all, network, items, users, fields")),
            }
        }
        if !freeze.network {
            return Err("tables can be frozen only together with the network: network,items".into());
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
