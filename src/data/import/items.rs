/*! Side fields of items from a separate table: one row per item, a column with its key, any other columns.
Cells may hold several values, separated by `|` (or by blanks in RecBole's `token_seq` columns).
*/

use std::{collections::HashMap, io::Read as _};

use crate::{
    base::{Error, Notice, Result},
    data::{
        Vocab, digits,
        fields::FieldBuilder,
        import::{
            bad_rows::{BROKEN_QUOTE, quotes_hint},
            columns::{Role, bare, by_name, by_wish, is_known},
            decode::Encoding,
            doubts::like_names,
            grammar::Delimiter,
            messages::listed,
            options::ImportOptions,
            records::{Cells, cells},
            source::Source,
            table,
        },
    },
};

/// Reads a table and collects the fields of the items in `keys`; `say` receives what was recognized, and the coverage.
pub(crate) fn read(
    source: &Source,
    keys: &Vocab,
    options: &ImportOptions,
    say: &mut dyn FnMut(Notice),
) -> Result<Vec<FieldBuilder>> {
    let at = |e: Error| e.at(source.display());
    if source.parquet {
        return Err(Error::user(format!("{}: item fields are not read from Parquet", source.display()))
            .hint("save the item table as CSV"));
    }
    // The overrides are for the log, not for this table, except for the meaning of quotes. Latin-1 is detected below.
    let plain = ImportOptions { quotes: options.quotes, ..ImportOptions::default() };
    let mut source = source.clone();
    source.encoding = Encoding::Utf8;
    let source = &source;
    let told = |cell: &str| options.item_fields.iter().chain(&options.item_col).any(|name| name == bare(cell));
    let known = |cell: &str| is_known(cell) || told(cell);
    let mut table = table::table(source, &plain, &known)?;
    // MovieLens' movies.dat has no header; its columns are well known.
    if table.delimiter == Delimiter::DoubleColon && !table.header && table.names.len() == 3 {
        table.names = ["movieId", "title", "genres"].map(str::to_owned).to_vec();
    }
    let names = &table.names;
    let key_wish = options.item_col.as_deref().filter(|wish| by_wish(names, wish, "--item-col").is_ok());
    let key = match key_wish {
        Some(wish) => by_wish(names, wish, "--item-col").map_err(at)?,
        None => by_name(names, Role::Item).or((!table.header).then_some(0)).ok_or_else(|| {
            at(Error::user(format!("no column looks like the item (the columns are: {})", listed(names)))
                .hint("call the column of the keys `item`, or as --item-col calls it in the log"))
        })?,
    };
    let picked: Vec<usize> = if options.item_fields.is_empty() {
        // This table is the log itself: the values in an item's first row describe that interaction, which may be held
        // out.
        if table.header && by_name(names, Role::User).is_some() {
            return Err(at(Error::user("this table has a column of users, as a log has")
                .hint("name the columns that say something of the item: --item-fields category,brand")));
        }
        (0..names.len()).filter(|&c| c != key).collect()
    } else {
        let wishes = options.item_fields.iter();
        wishes.map(|wish| by_wish(names, wish, "--item-fields").map_err(at)).collect::<Result<_>>()?
    };
    let mut bytes = Vec::new();
    source.open()?.read_to_end(&mut bytes).map_err(|e| source.read_error(&e))?;
    let bytes = bytes.strip_prefix(&[0xef, 0xbb, 0xbf]).unwrap_or(&bytes);
    let (text, latin1) = match std::str::from_utf8(bytes) {
        Ok(text) => (text.to_owned(), false),
        // Old tables (movies.dat) are Latin-1, where each byte is the code point of its character.
        Err(_) => (bytes.iter().map(|&b| char::from(b)).collect(), true),
    };
    let Cells { rows, broken } = cells(text.as_bytes(), table.delimiter, options.quotes, true);
    if let Some(&line) = broken.first() {
        let place = format!("{}: line {}: {BROKEN_QUOTE}", source.display(), digits(line as u64));
        if !options.skip_bad {
            return Err(Error::user(place).hint(quotes_hint(options.quotes)));
        }
        let rows = digits(broken.len() as u64);
        say(Notice::Warning(format!("{place}; {rows} rows of items left out")));
    }
    // The row of each item; the first one wins.
    let mut row_of: HashMap<u32, usize> = HashMap::new();
    for (n, row) in rows.iter().enumerate().skip(usize::from(table.header)) {
        let id = row.get(key).and_then(|cell| keys.find(std::str::from_utf8(cell).ok()?));
        if let Some(id) = id {
            row_of.entry(id).or_insert(n);
        }
    }
    say(Notice::Info(format!(
        "{}: {}, item column '{}'{}; {} of {} items found",
        source.display(),
        table.delimiter,
        names[key],
        if latin1 { ", not UTF-8: read as Latin-1" } else { "" },
        digits(row_of.len() as u64),
        digits(keys.len() as u64),
    )));
    // A row of the table usually has the key of an item in the log; a header does not.
    if let (false, Some((first, below))) = (table.header, table.rows.split_first())
        && keys.find(&first[key]).is_none()
        && like_names(first, below)
    {
        say(Notice::Warning(format!(
            "{}: line 1 ({}) is read as a row, but may be a header, and no item is called '{}'; if it is one, \
             call its column of keys `item`",
            source.display(),
            listed(first),
            first[key]
        )));
    }
    if row_of.is_empty() {
        return Err(Error::user(format!(
            "{}: no key in column '{}' is an item of the log",
            source.display(),
            names[key]
        ))
        .hint("name the column that holds the same keys as the log with --item-col"));
    }
    if row_of.len() * 10 < keys.len() {
        say(Notice::Warning(format!(
            "{}: only {} of {} items of the log have a row here: does column '{}' hold the log's item keys? \
             if not, name the right one with --item-col",
            source.display(),
            digits(row_of.len() as u64),
            digits(keys.len() as u64),
            names[key]
        )));
    }
    let mut fields = Vec::new();
    for column in picked {
        let name = bare(&names[column]).to_owned();
        let blanks = names[column].ends_with("_seq");
        let mut field = FieldBuilder { name, offsets: vec![0], values: Vec::new(), keys: Vec::new() };
        let mut ids: HashMap<String, u32> = HashMap::new();
        // The last item that had each value. Searching the item's other values instead would be quadratic, and a cell
        // may hold millions.
        let mut had_by: Vec<u32> = Vec::new();
        let mut covered = 0;
        for item in 0..keys.len() as u32 {
            let cell = row_of.get(&item).and_then(|&n| rows[n].get(column));
            let cell = cell.map(|c| String::from_utf8_lossy(c)).unwrap_or_default();
            let before = field.values.len();
            let separator = |c: char| if blanks { c == ' ' } else { c == '|' };
            // A value that occurs twice counts once.
            for value in cell.split(separator).map(str::trim).filter(|v| !v.is_empty()) {
                let next = ids.len() as u32;
                let id = *ids.entry(value.to_owned()).or_insert_with(|| {
                    field.keys.push(value.to_owned());
                    had_by.push(u32::MAX);
                    next
                });
                if std::mem::replace(&mut had_by[id as usize], item) != item {
                    field.values.push(id);
                }
            }
            covered += u64::from(field.values.len() > before);
            field.offsets.push(field.values.len() as u64);
        }
        say(Notice::Info(format!(
            "  field '{}': {} values, on {:.1} % of the items",
            field.name,
            digits(field.keys.len() as u64),
            100.0 * covered as f64 / keys.len() as f64
        )));
        fields.push(field);
    }
    Ok(fields)
}
