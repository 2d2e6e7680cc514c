//! Determines the layout of all sources of one log, reports it, and checks that they fit together.

use std::path::{Path, PathBuf};

use crate::{
    base::{Error, Notice, Result},
    data::{
        digits,
        import::{
            columns::{Columns, bare},
            filter::Tally,
            folder,
            messages::listed,
            options::{ImportOptions, Where},
            parquet,
            sniff::{self, Inherited},
            source::Source,
            time::TimeKind,
        },
    },
};

/// The layout of one source.
pub(crate) enum FileLayout {
    Text(sniff::TextLayout),
    Parquet(parquet::ParquetLayout),
}

impl FileLayout {
    /// `None`: the file has no rows. `above`: the header that a file without one may inherit from the file before it.
    fn of(source: Source, options: &ImportOptions, above: Option<&Inherited>) -> Result<Option<FileLayout>> {
        Ok(if source.parquet {
            parquet::layout(source, options)?.map(FileLayout::Parquet)
        } else {
            sniff::text_layout(source, options, above)?.map(FileLayout::Text)
        })
    }

    pub fn source(&self) -> &Source {
        match self {
            FileLayout::Text(l) => &l.source,
            FileLayout::Parquet(l) => &l.source,
        }
    }

    pub fn columns(&self) -> &Columns {
        match self {
            FileLayout::Text(l) => &l.columns,
            FileLayout::Parquet(l) => &l.columns,
        }
    }

    fn names(&self) -> &[String] {
        match self {
            FileLayout::Text(l) => &l.names,
            FileLayout::Parquet(l) => &l.names,
        }
    }

    pub fn time_kind(&self) -> Option<TimeKind> {
        match self {
            FileLayout::Text(l) => l.time_kind,
            FileLayout::Parquet(l) => l.time_kind,
        }
    }

    /// The hint if no cell of the column is a time.
    pub fn time_hint(&self) -> Option<&String> {
        match self {
            FileLayout::Text(l) => l.time_hint.as_ref(),
            FileLayout::Parquet(l) => l.time_hint.as_ref(),
        }
    }

    fn time_unit(&self) -> Option<&'static str> {
        self.time_kind().map(TimeKind::unit)
    }

    /// The file format, which must be the same for all parts of one folder.
    fn kind(&self) -> String {
        match self {
            FileLayout::Text(l) => l.kind(),
            FileLayout::Parquet(_) => "Parquet".into(),
        }
    }

    /// Warnings about the filter after everything is read.
    pub fn filter_doubts(&self, wheres: &[Where], tally: &Tally) -> Vec<String> {
        match self {
            FileLayout::Text(l) => l.filter.doubts(&l.names, wheres, tally),
            FileLayout::Parquet(l) => l.filter.doubts(&l.names, wheres, tally),
        }
    }

    /// Warnings about what may be misread.
    fn doubts(&self) -> &[String] {
        match self {
            FileLayout::Text(l) => &l.doubts,
            FileLayout::Parquet(l) => &l.doubts,
        }
    }

    fn describe(&self) -> Vec<String> {
        match self {
            FileLayout::Text(l) => l.describe(),
            FileLayout::Parquet(l) => l.describe(),
        }
    }
}

/// The sources at the given paths, in order: files, pipes, and the parts of folders.
fn gather(paths: &[PathBuf], dir: &Path, options: &ImportOptions) -> Result<Vec<(Source, Option<usize>)>> {
    let mut found = Vec::new();
    for (n, path) in paths.iter().enumerate() {
        if path != Path::new("-") && path.is_dir() {
            for part in folder::parts(path)? {
                let mut source = Source::new(&part.path, dir, &format!("source-{}", found.len()), options)?;
                source.partition = part.partition;
                found.push((source, Some(n)));
            }
        } else {
            found.push((Source::new(path, dir, &format!("source-{}", found.len()), options)?, None));
        }
    }
    Ok(found)
}

/// Determines the layout of all sources, reports it, and checks that they form one log. Pipes are copied to `dir`.
///
/// # Errors
/// A source that is not recognized, sources without a row, parts of a folder with different formats or columns, sources
/// of which only some have times or ratings, filters on columns that do not exist.
pub(crate) fn understand(
    paths: &[PathBuf],
    dir: &Path,
    options: &ImportOptions,
    report: &mut dyn FnMut(Notice),
) -> Result<Vec<FileLayout>> {
    if paths.is_empty() {
        return Err(Error::user("no log given").hint("name at least one file to import"));
    }
    let sources = gather(paths, dir, options)?;
    let mut layouts: Vec<FileLayout> = Vec::new();
    let mut folders: Vec<Option<usize>> = Vec::new();
    let (mut above, mut empty) = (None, Vec::new());
    for (source, folder) in sources {
        let shown = source.display().to_string();
        match FileLayout::of(source, options, above.as_ref())? {
            None => empty.push(shown),
            Some(layout) => {
                if let FileLayout::Text(text) = &layout {
                    above = text.inherited().or(above);
                }
                layouts.push(layout);
                folders.push(folder);
            }
        }
    }
    if layouts.is_empty() {
        return Err(Error::user(format!("{}: has a header and no rows", empty[0]))
            .hint("a log has a row for each interaction: user, item and, as a rule, a time"));
    }
    alike_in_folders(&layouts, &folders)?;
    describe(&layouts, report);
    if !empty.is_empty() {
        let all = empty.len() + layouts.len();
        report(Notice::Info(format!("{} of {all} files hold no rows: {}", empty.len(), few(&empty))));
    }
    fit_together(&layouts, options)?;
    Ok(layouts)
}

/// The first few names, and how many more there are.
fn few(names: &[String]) -> String {
    let more = if names.len() > 3 { format!(" and {} more", names.len() - 3) } else { String::new() };
    format!("{}{more}", names[..names.len().min(3)].join(", "))
}

/// Checks that the parts of a folder have one format and the same columns.
fn alike_in_folders(layouts: &[FileLayout], folders: &[Option<usize>]) -> Result<()> {
    let columns = |l: &FileLayout| {
        let mut names: Vec<String> = l.names().iter().map(|n| bare(n).to_owned()).collect();
        names.sort();
        names
    };
    for (n, layout) in layouts.iter().enumerate() {
        let Some(m) = folders[..n].iter().position(|f| f.is_some() && *f == folders[n]) else { continue };
        let first = &layouts[m];
        let (what, a, b) = if first.kind() != layout.kind() {
            ("format", first.kind(), layout.kind())
        } else if columns(first) != columns(layout) {
            ("columns", listed(first.names()), listed(layout.names()))
        } else {
            continue;
        };
        return Err(Error::user(format!(
            "{} ({a}) and {} ({b}) are files of one folder and differ in their {what}",
            first.source().display(),
            layout.source().display()
        ))
        .hint("a folder is read as one table in parts; name the files that belong to the log instead"));
    }
    Ok(())
}

/// Reports the layout of each source; consecutive sources with the same layout are reported once.
fn describe(layouts: &[FileLayout], report: &mut dyn FnMut(Notice)) {
    let mut last: Vec<String> = Vec::new();
    let mut alike = 0;
    for layout in layouts {
        let (lines, doubts) = (layout.describe(), layout.doubts());
        if last == lines[1..] && doubts.is_empty() {
            alike += 1;
            continue;
        }
        lines.iter().cloned().map(Notice::Info).for_each(&mut *report);
        doubts.iter().cloned().map(Notice::Warning).for_each(&mut *report);
        last = lines[1..].to_vec();
    }
    if alike > 0 {
        let files = if alike == 1 { "file" } else { "files" };
        report(Notice::Info(format!("  {} more {files} with the same columns", digits(alike))));
    }
}

fn fit_together(layouts: &[FileLayout], options: &ImportOptions) -> Result<()> {
    let first = &layouts[0];
    for layout in layouts {
        let path = layout.source().display();
        let unit_differs = layout.time_unit() != first.time_unit();
        if unit_differs || layout.columns().rating.is_some() != first.columns().rating.is_some() {
            let (what, flag) = if unit_differs { ("times", "--time-col") } else { ("ratings", "--rating-col") };
            return Err(Error::user(format!("{} and {path} differ in their {what}", first.source().display()))
                .hint(format!("name the column with {flag}, or leave it out with `{flag} none`")));
        }
        if let (Some(_), None) = (&options.time_range, layout.columns().time) {
            return Err(Error::user(format!("{path}: --time-range needs a time, and no column looks like one"))
                .hint("name it with --time-col"));
        }
        let asked =
            [(options.min_rating.is_some(), "--min-rating"), (options.rating_range.is_some(), "--rating-range")];
        if let (Some((_, flag)), None) = (asked.iter().find(|(asked, _)| *asked), layout.columns().rating) {
            return Err(Error::user(format!("{path}: {flag} needs a rating, and no column looks like one"))
                .hint("name it with --rating-col"));
        }
    }
    Ok(())
}
