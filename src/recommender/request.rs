//! Requests and recommendations, and their JSON.

use serde_json::{Value, json};

use crate::base::{Error, Result, error::nearest};

/// A request for a list: a history, or a user whose history is in the data.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Request {
    /// Returned in the answer: a string, a whole number or null.
    pub id: Value,
    /// Item keys, oldest first; for a next-basket model, a basket.
    pub history: Option<Vec<String>>,
    /// The key of a user. With a history: the user whose vector models with user vectors read. Alone: the user
    /// of the data whose history is used.
    pub user: Option<String>,
    /// Length of the list.
    pub k: Option<usize>,
    /// Whether items of the history are candidates.
    pub keep_seen: Option<bool>,
}

/// A request that cannot be answered.
#[derive(Clone, Debug)]
pub struct Rejected {
    /// The id of the request, if it could be read.
    pub id: Value,
    pub error: Box<Error>,
}

const FIELDS: [&str; 5] = ["id", "history", "user", "k", "keep_seen"];
const FORM: &str = r#"write {"id": "anyone", "history": ["key", "key"]}"#;

impl Request {
    /// Creates a request for a history of item keys, oldest first.
    pub fn history<K: Into<String>>(keys: impl IntoIterator<Item = K>) -> Request {
        Request { history: Some(keys.into_iter().map(K::into).collect()), ..Request::default() }
    }

    /// Creates a request for a user of the data.
    pub fn user(key: impl Into<String>) -> Request {
        Request { user: Some(key.into()), ..Request::default() }
    }

    /// Parses a request from JSON: `{"id"?, "history": [key, ...], "user"?, "k"?, "keep_seen"?}`. `history` or
    /// `user` is required. Keys are strings or whole numbers.
    ///
    /// # Errors
    /// The text is not such an object, or has an unknown field. The error has the id if there is one.
    pub fn parse(line: &[u8]) -> std::result::Result<Request, Rejected> {
        let rejected = |id, error| Rejected { id, error: Box::new(error) };
        let no_json = |e: String| rejected(Value::Null, Error::user(format!("not JSON: {e}")).hint(FORM));
        let text = std::str::from_utf8(line).map_err(|_| no_json("the line is not UTF-8 text".into()))?;
        let value: Value = serde_json::from_str(text).map_err(|e| no_json(e.to_string()))?;
        let id = value.get("id").cloned().unwrap_or(Value::Null);
        Request::of(&value).map_err(|error| rejected(id, error))
    }

    fn of(value: &Value) -> Result<Request> {
        let unknown =
            value.as_object().into_iter().flatten().map(|(name, _)| name).find(|name| !FIELDS.contains(&name.as_str()));
        let history = value.get("history");
        let user = value.get("user").filter(|user| !user.is_null());
        if history.is_none_or(|history| !history.is_array()) && (user.is_none() || history.is_some()) {
            let near = unknown.filter(|name| nearest(name, ["history"]).is_some());
            let instead = near.map_or(String::new(), |name| format!("it is called '{name}' here: "));
            return Err(Error::user("no list called \"history\"").hint(format!("{instead}{FORM}")));
        }
        if let Some(name) = unknown {
            let e = Error::user(format!("unknown field '{name}' in the request"));
            return Err(match nearest(name, FIELDS) {
                Some(near) => e.hint(format!("did you mean '{near}'?")),
                None => e.hint(FORM),
            });
        }
        let id = value.get("id").cloned().unwrap_or(Value::Null);
        if !(id.is_null() || id.is_string() || id.is_i64() || id.is_u64()) {
            return Err(Error::user(format!("{id} is not an id")).hint("an id is a string or a whole number"));
        }
        let k = match value.get("k").filter(|k| !k.is_null()) {
            None => None,
            Some(k) => Some(k.as_u64().filter(|k| *k > 0).ok_or_else(|| {
                Error::user(format!("\"k\": {k} is not a list length")).hint("give a whole number from 1 up")
            })? as usize),
        };
        let keep_seen = match value.get("keep_seen").filter(|keep| !keep.is_null()) {
            None => None,
            Some(keep) => Some(keep.as_bool().ok_or_else(|| {
                Error::user(format!("\"keep_seen\": {keep} is neither true nor false")).hint("write true or false")
            })?),
        };
        let keys = |list: &Value| list.as_array().into_iter().flatten().map(key_of).collect::<Result<Vec<_>>>();
        let history = history.map(keys).transpose()?;
        Ok(Request { id, history, user: user.map(key_of).transpose()?, k, keep_seen })
    }
}

/// Returns the key that a JSON value represents.
///
/// # Errors
/// The value is neither a string nor a whole number.
pub fn key_of(value: &Value) -> Result<String> {
    match value {
        Value::String(key) => Ok(key.clone()),
        Value::Number(n) if n.is_i64() || n.is_u64() => Ok(n.to_string()),
        other => Err(Error::user(format!("{other} is not an item key"))
            .hint("keys are strings or whole numbers; write a key such as 1.50 in quotes")),
    }
}

/// One recommended item.
#[derive(Clone, Debug, PartialEq)]
pub struct Item {
    pub key: String,
    /// `<user vector, item vector> + item bias`.
    pub score: f32,
    /// From a side field of the data, if there is one.
    pub title: Option<String>,
}

/// The answer to a request.
#[derive(Clone, Debug, PartialEq)]
pub struct Recommendation {
    /// As in the request.
    pub id: Value,
    /// Number of items of the history that the model knows.
    pub history: usize,
    /// Keys of the history that the model does not know.
    pub unknown: Vec<String>,
    /// Best first; ties in catalogue order.
    pub items: Vec<Item>,
    /// Explains why there are fewer items than requested.
    pub short: Option<String>,
}

impl Recommendation {
    /// `{"id", "history", "unknown", "items": [{"item", "score", "title"?}], "short"?}`
    pub fn json(&self) -> Value {
        let item = |item: &Item| {
            // Convert through the shortest text: an f32 widened to f64 would print spurious digits.
            let score: f64 = item.score.to_string().parse().unwrap_or(f64::from(item.score));
            let mut object = json!({ "item": item.key, "score": score });
            if let Some(title) = &item.title {
                object["title"] = title.clone().into();
            }
            object
        };
        let items: Vec<Value> = self.items.iter().map(item).collect();
        let mut object = json!({ "id": self.id, "history": self.history, "unknown": self.unknown, "items": items });
        if let Some(why) = &self.short {
            object["short"] = why.clone().into();
        }
        object
    }
}

impl Rejected {
    /// `{"id", "error", "hint"}`
    pub fn json(&self) -> Value {
        json!({ "id": self.id, "error": self.error.what, "hint": self.error.hint })
    }
}
