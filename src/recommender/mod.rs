/*! Top-k lists for requests: one schema and one computation for `mipgpu recommend`, for programs that use the
crate, and for servers.

A [`Request`] names a history or a user by keys. A [`Recommender`] borrows an opened run and answers requests in
batches. A batch is one pass over the model with the largest k of its requests; each list is then cut to its own
k. A [`Service`] is a thread that opens and owns a run. Any number of threads send it requests, and it answers
pending requests in batches.
*/

mod request;
mod service;

pub use request::key_of;
pub use request::{Item, Recommendation, Rejected, Request};
pub use service::{Service, ServiceOptions};

use std::{cell::OnceCell, collections::BTreeSet};

use serde_json::Value;

use crate::{
    base::{Error, Result, error::nearest},
    data::{Dataset, Titles, Vocab, digits},
    eval::{
        Encoder, ItemMap,
        evaluate::check_ks,
        item_map::alike,
        recommend::{Wanted, recommend_each},
    },
    train::OpenRun,
};

/// A request with its keys looked up.
#[derive(Clone, Debug, PartialEq)]
pub struct Lookup {
    /// As in the request; null if it has none.
    pub id: Value,
    /// Items that the model knows, oldest first.
    pub history: Vec<u32>,
    /// The model's number of the user, if the model has a vector for this user.
    pub user: Option<u32>,
    /// Keys of the history that the model does not know, in order.
    pub unknown: Vec<String>,
    /// Length of the list; `None` for the recommender's default.
    pub k: Option<usize>,
    /// Whether items of the history are candidates; `None` for the recommender's default.
    pub keep_seen: Option<bool>,
}

/// An opened run that answers requests.
pub struct Recommender<'a> {
    encoder: &'a mut dyn Encoder,
    keys: &'a Vocab,
    users: Option<&'a Vocab>,
    data: Option<&'a Dataset>,
    titles: Option<Titles<'a>>,
    map: OnceCell<ItemMap>,
    k: usize,
    keep_seen: bool,
    baskets: bool,
}

impl<'a> Recommender<'a> {
    /// Creates a recommender with a default list length of `k` (at most the catalogue size). `data` are
    /// required for requests with only a user; for other requests they provide titles.
    ///
    /// # Errors
    /// k is 0 or larger than the catalogue.
    pub fn new(run: &'a mut OpenRun, data: Option<&'a Dataset>, k: usize) -> Result<Self> {
        check_ks(&[k], run.item_keys.len())?;
        let baskets = run.encoder.last_basket();
        Ok(Recommender {
            keep_seen: run.keeps_seen(None, baskets || run.split.repeats())?,
            encoder: &mut *run.encoder,
            keys: &run.item_keys,
            users: run.user_keys.as_ref(),
            titles: data.and_then(Titles::of),
            data,
            map: OnceCell::new(),
            k,
            baskets,
        })
    }

    /// Sets whether items of the history are candidates, for requests that do not specify it.
    pub fn keep_seen(mut self, keep_seen: bool) -> Self {
        self.keep_seen = keep_seen;
        self
    }

    /// Keys of the catalogue.
    pub fn keys(&self) -> &'a Vocab {
        self.keys
    }

    /// Titles of the items, if the data have a side field for them.
    pub fn titles(&self) -> Option<&Titles<'a>> {
        self.titles.as_ref()
    }

    /// Returns the map from the items of the data to those of the model.
    ///
    /// # Errors
    /// There are no data, or the model knows none of their items.
    pub fn item_map(&self) -> Result<&ItemMap> {
        if let Some(map) = self.map.get() {
            return Ok(map);
        }
        let data = self.data.ok_or_else(|| Error::internal("users of the data, without the data"))?;
        let map = ItemMap::between(data.item_keys(), self.keys)?;
        Ok(self.map.get_or_init(|| map))
    }

    /// Looks up the keys of a request.
    ///
    /// # Errors
    /// The request has neither a history nor a user, the user is not in the data, or k is 0.
    pub fn look_up(&self, request: Request) -> Result<Lookup> {
        let Request { id, history, user, k, keep_seen } = request;
        if k == Some(0) {
            return Err(Error::user("\"k\": 0 asks for no items").hint("give a number from 1 up"));
        }
        if keep_seen == Some(false) && self.baskets {
            return Err(Error::user(
                "\"keep_seen\": false has no effect on baskets, because people buy the same items again",
            )
            .hint("omit it"));
        }
        let known = |key: &str| self.users.and_then(|users| users.find(key));
        let Some(keys) = history else {
            let Some(user) = user else {
                return Err(Error::user("neither a history nor a user")
                    .hint(r#"write {"history": ["key", "key"]}, or {"user": "key"}"#));
            };
            return Ok(Lookup { id, k, keep_seen, ..self.user_of_data(self.find_user(&user)?, None)? });
        };
        let (mut history, mut unknown) = (Vec::new(), Vec::new());
        for key in keys {
            match self.keys.find(&key) {
                Some(item) => history.push(item),
                None => unknown.push(key),
            }
        }
        Ok(Lookup { id, history, user: user.as_deref().and_then(known), unknown, k, keep_seen })
    }

    /// Returns the number of a user in the data.
    ///
    /// # Errors
    /// There are no data, or they have no such user.
    pub fn find_user(&self, key: &str) -> Result<usize> {
        let data = self.data.ok_or_else(|| {
            Error::user(format!("user '{key}': the data with the histories of users are not available"))
                .hint("give the history in the request, or the data")
        })?;
        let known = data.user_keys();
        known.find(key).map(|user| user as usize).ok_or_else(|| {
            let e = Error::user(format!("no user '{key}' in the data"));
            match (alike(key, known), nearest(key, known.keys())) {
                (Some(same), _) => e.hint(format!("the data have '{same}' where '{key}' was given")),
                (None, Some(close)) => e.hint(format!("did you mean '{close}'?")),
                (None, None) => e.hint("for someone who is not in the data, give the items of the history"),
            }
        })
    }

    /// Returns the history of a user of the data: its first `end` events, or all.
    ///
    /// # Errors
    /// As [`Recommender::item_map`].
    pub fn user_of_data(&self, user: usize, end: Option<usize>) -> Result<Lookup> {
        let map = self.item_map()?;
        let data = self.data.ok_or_else(|| Error::internal("users of the data, without the data"))?;
        let end = end.unwrap_or(data.items_of(user).len());
        let events = if self.baskets { data.last_basket_of(user, end) } else { &data.items_of(user)[..end] };
        let strange = events.iter().filter(|item| map.item(**item).is_none());
        let key = data.user_keys().key(user);
        Ok(Lookup {
            id: key.into(),
            history: map.sequence(events).into_owned(),
            user: self.users.and_then(|users| users.find(key)),
            unknown: strange.map(|item| data.item_keys().key(*item as usize).to_owned()).collect(),
            k: None,
            keep_seen: None,
        })
    }

    /// Recommends for a batch; the results are in its order.
    ///
    /// # Errors
    /// A score is NaN or infinite, or the model or its device fails.
    pub fn recommend(&mut self, batch: &[Lookup]) -> Result<Vec<Recommendation>> {
        let of = |lookup: &Lookup| lookup.k.unwrap_or(self.k).min(self.keys.len());
        let most = batch.iter().map(of).max().unwrap_or(self.k);
        let wanted: Vec<Wanted> = batch
            .iter()
            .map(|l| Wanted { history: &l.history, user: l.user, keep_seen: l.keep_seen.unwrap_or(self.keep_seen) })
            .collect();
        let lists = recommend_each(self.encoder, &wanted, most)?;
        let answer = |(lookup, list): (&Lookup, Vec<crate::eval::Scored>)| {
            let k = of(lookup);
            let items: Vec<Item> = list
                .iter()
                .take(k)
                .map(|s| {
                    let key = self.keys.key(s.item as usize);
                    let title = self.titles.as_ref().and_then(|t| t.title(key));
                    Item { key: key.to_owned(), score: s.score, title }
                })
                .collect();
            Recommendation {
                id: lookup.id.clone(),
                history: lookup.history.len(),
                unknown: lookup.unknown.clone(),
                short: self.short(lookup, items.len()),
                items,
            }
        };
        Ok(batch.iter().zip(lists).map(answer).collect())
    }

    /// Answers requests in one batch. A rejected request has no effect on the others.
    ///
    /// # Errors
    /// As [`Recommender::recommend`]; the whole batch has failed.
    pub fn answer(&mut self, requests: Vec<Request>) -> Result<Vec<std::result::Result<Recommendation, Rejected>>> {
        let looked_up: Vec<_> = requests
            .into_iter()
            .map(|request| {
                let id = request.id.clone();
                self.look_up(request).map_err(|error| Rejected { id, error: Box::new(error) })
            })
            .collect();
        let batch: Vec<Lookup> = looked_up.iter().flatten().cloned().collect();
        let mut lists = self.recommend(&batch)?.into_iter();
        let mut next = || lists.next().ok_or_else(|| Error::internal("a request without its list"));
        looked_up.into_iter().map(|one| one.map_or_else(|e| Ok(Err(e)), |_| next().map(Ok))).collect()
    }

    /// Explains why a list of `n` items is shorter than requested.
    fn short(&self, lookup: &Lookup, n: usize) -> Option<String> {
        if n >= lookup.k.unwrap_or(self.k) {
            return None;
        }
        let (had, all) = (lookup.history.iter().collect::<BTreeSet<_>>().len(), self.keys.len());
        Some(if lookup.keep_seen.unwrap_or(self.keep_seen) || n == all {
            format!("the catalogue has {} {}", digits(all as u64), if all == 1 { "item" } else { "items" })
        } else {
            format!("the history holds {had} of the {all} items, which are not recommended again (--keep-seen)")
        })
    }
}
