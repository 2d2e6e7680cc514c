//! What columns are for, the names they usually have, and the columns that flags name.

use crate::{
    base::{Error, Result, error::nearest},
    data::import::{messages::listed, options::ImportOptions},
};

/// Known column names, lower case without `_`, `-` and blanks. The first match in this order wins, so less ambiguous
/// names come first.
#[rustfmt::skip]
const USER: &[&str] = &[
    "user", "userid", "uid", "userkey", "useruuid", "visitorid", "visitor", "customerid", "customer", "customerkey",
    "customeruniqueid", "reviewerid", "reviewer", "memberid", "member", "accountid", "account", "profileid",
    "clientid", "client", "buyerid", "readerid", "listenerid", "personid", "deviceid", "householdkey", "msno",
    "sessionid", "session", "u",
];
#[rustfmt::skip]
const ITEM: &[&str] = &[
    "item", "itemid", "iid", "itemkey", "itemuuid", "movieid", "movie", "filmid", "productid", "product",
    "productkey", "parentasin", "asin", "articleid", "article", "sku", "stockcode", "goodsid", "trackid", "track",
    "songid", "song", "artistid", "artist", "albumid", "bookid", "book", "isbn", "businessid", "gmapid", "venueid",
    "poiid", "locationid", "placeid", "videoid", "video", "showid", "newsid", "news", "gameid", "game", "appid",
    "app", "contentid", "adid", "courseid", "recipeid", "animeid", "postid", "i",
];
#[rustfmt::skip]
const TIME: &[&str] = &[
    "timestamp", "time", "ts", "unixreviewtime", "unixtime", "timestampms", "datetime", "date", "eventtime",
    "eventtimestamp", "createdat", "created", "createtime", "playedat", "listenedat", "orderdate", "invoicedate",
    "purchasedate", "transactiondate", "tdat", "reviewdate", "ratedat", "clicktime", "utctime", "epoch", "t",
];
const RATING: &[&str] =
    &["rating", "ratings", "score", "stars", "star", "starrating", "overall", "rate", "reviewscore", "weight", "plays"];

/// What a column is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    User,
    Item,
    Time,
    Rating,
    /// Never guessed: only the user knows which rows belong together.
    Basket,
}

impl Role {
    pub const ALL: [Role; 5] = [Role::User, Role::Item, Role::Time, Role::Rating, Role::Basket];

    pub fn name(self) -> &'static str {
        ["user", "item", "time", "rating", "basket"][self as usize]
    }

    /// Its known names, without those of lists.
    pub fn synonyms(self) -> &'static [&'static str] {
        [USER, ITEM, TIME, RATING, &[]][self as usize]
    }

    /// The columns named by flags, in the order of the roles.
    pub fn wishes(o: &ImportOptions) -> [Option<&str>; 5] {
        [&o.user_col, &o.item_col, &o.time_col, &o.rating_col, &o.basket_col].map(Option::as_deref)
    }

    pub fn wish(self, options: &ImportOptions) -> Option<&str> {
        Self::wishes(options)[self as usize]
    }
}

/// The columns of one file, by index from 0.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Columns {
    pub user: usize,
    pub item: usize,
    pub time: Option<usize>,
    pub rating: Option<usize>,
    pub basket: Option<usize>,
    /// The rating is written as True and False, yes and no, ….
    pub words: bool,
}

impl Columns {
    pub fn of(&self, role: Role) -> Option<usize> {
        [Some(self.user), Some(self.item), self.time, self.rating, self.basket][role as usize]
    }
}

/// A name without its type suffix (RecBole's `user_id:token`).
pub(crate) fn bare(name: &str) -> &str {
    name.split_once(':').map_or(name, |(bare, _)| bare)
}

pub(crate) fn normal(name: &str) -> String {
    bare(name).chars().filter(|c| c.is_alphanumeric()).flat_map(char::to_lowercase).collect()
}

/// Whether a cell is a known name of some role, which makes its row a header. One letter is not enough: it may be a
/// key.
pub(crate) fn is_known(cell: &str) -> bool {
    let name = normal(cell);
    name.len() > 1 && Role::ALL.iter().any(|role| role.synonyms().contains(&name.as_str()))
}

/// The column with the best name for a role.
pub(crate) fn by_name(names: &[String], role: Role) -> Option<usize> {
    let normal: Vec<String> = names.iter().map(|n| normal(n)).collect();
    role.synonyms().iter().find_map(|s| normal.iter().position(|n| n == s))
}

/// Names of lists of items that do not come from the name of an item.
const HISTORIES: &[&str] = &["sequence", "history", "itemhistory", "seq"];

/// Whether a name is that of a list of this role: `item_id_list`, `items`, `movie_ids` for an item.
pub(crate) fn is_list_of(name: &str, role: Role) -> bool {
    let name = normal(name);
    let ends = ["list", "lists", "seq", "sequence", "array", "s"];
    ends.iter().filter_map(|end| name.strip_suffix(end)).any(|one| role.synonyms().contains(&one))
        || role == Role::Item && HISTORIES.contains(&name.as_str())
}

/// Whether a name is that of a list of items.
pub(crate) fn is_list_name(name: &str) -> bool {
    is_list_of(name, Role::Item)
}

/// The column that a flag names: by name, or by number from 1.
pub(crate) fn by_wish(names: &[String], wish: &str, flag: &str) -> Result<usize> {
    let same = |f: &dyn Fn(&str) -> bool| names.iter().position(|n| f(n));
    let number = || wish.parse::<usize>().ok().filter(|n| (1..=names.len()).contains(n)).map(|n| n - 1);
    same(&|n| n == wish)
        .or_else(|| same(&|n| bare(n) == wish))
        .or_else(|| same(&|n| bare(n).eq_ignore_ascii_case(wish)))
        .or_else(number)
        .ok_or_else(|| {
            let error = Error::user(format!("no column '{wish}' (the columns are: {})", listed(names)));
            match nearest(wish, names.iter().map(|n| bare(n))) {
                Some(name) => error.hint(format!("did you mean {flag} {name}?")),
                None => error.hint(format!("{flag} accepts the name of a column, or its number from 1")),
            }
        })
}

/// Cells of one column of the sample.
pub(crate) fn cells_of(sample: &[Vec<String>], c: usize) -> impl Iterator<Item = &str> + Clone {
    sample.iter().filter_map(move |row| row.get(c)).map(String::as_str)
}
