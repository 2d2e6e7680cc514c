/*! Downloads well-known data sets by name and imports them. The files come from their official address or from a
local path. They are compared with the checksums of the originals and imported with their item tables.

None of the data sets may be redistributed, so none is part of this program. Whoever downloads one does so under its
terms, which the program prints.
*/

use std::{
    collections::HashMap,
    fs::{self, File},
    io::{Cursor, Read, Seek},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use flate2::read::GzDecoder;
use zip::ZipArchive;

use crate::{
    base::{Error, Notice, Result, error::IoContext},
    data::{
        ImportOptions, ImportSummary, digits, import,
        import::DATA_SET,
        known::{Known, Original},
        staging::check_free,
    },
};

/// The source of the original files.
#[derive(Clone, Debug)]
pub enum Source {
    /// An address: the official one or a mirror.
    Url(String),
    /// The zip, or a folder with its contents.
    Path(PathBuf),
}

/// Larger downloads are rejected.
const LARGEST_ZIP: u64 = 256 << 20;

/// Gets `known` and imports it into `out`. `report` receives progress messages; setting `cancel` stops the work.
///
/// # Errors
/// The address is unreachable; a file is missing; an original is altered or is another file; the output exists and
/// `force` is not set.
pub fn get(
    known: &Known,
    from: &Source,
    out: &Path,
    force: bool,
    cancel: Option<Arc<AtomicBool>>,
    report: &mut dyn FnMut(Notice),
) -> Result<ImportSummary> {
    // Checked before the download.
    check_free(out, DATA_SET, force)?;
    let mut originals = match from {
        Source::Url(url) => {
            let zip = download(known, url, cancel.as_deref(), report)?;
            in_zip(known, Cursor::new(zip), url)?
        }
        Source::Path(path) if path.is_dir() => in_folder(known, path)?,
        Source::Path(path) => {
            let file = File::open(path).at_path(path).map_err(|e| e.hint("--from accepts a zip or a folder"))?;
            in_zip(known, file, &path.display().to_string())?
        }
    };
    let place = match from {
        Source::Url(url) => url.clone(),
        Source::Path(path) => path.display().to_string(),
    };
    let mut take = |original: &Original| {
        let bytes = originals.remove(original.name);
        bytes.ok_or_else(|| {
            Error::user(format!("{place}: there is no {} in it", original.name)).hint(format!(
                "{} is a zip with {} and {}: {}",
                known.title, known.log.name, known.items.name, known.url
            ))
        })
    };
    let (log, items) = (take(&known.log)?, take(&known.items)?);
    for (original, bytes) in [(&known.log, &log), (&known.items, &items)] {
        original.check(bytes).map_err(|what| {
            Error::user(format!("{place}: {} {what}", original.name))
                .hint(format!("it is altered, truncated or from another data set; the original: {}", known.url))
        })?;
    }
    let names = (known.log.name, known.items.name);
    report(Notice::Info(format!("{}: {} and {} are the originals", known.title, names.0, names.1)));

    let aside = Aside::new(out)?;
    let (log_path, table_path) = (aside.0.join(known.log.name), aside.0.join("items.csv"));
    fs::write(&log_path, log).at_path(&log_path)?;
    // The item files are Latin-1, in which each byte is the code point of its character.
    let text: String = items.iter().map(|&b| char::from(b)).collect();
    let mut table = csv::Writer::from_path(&table_path).map_err(|e| Error::internal(e.to_string()))?;
    let header = ["item", "title", "year", "genres"].map(str::to_owned);
    for row in std::iter::once(header).chain((known.table)(&text)) {
        table.write_record(&row).map_err(|e| Error::internal(format!("{}: {e}", table_path.display())))?;
    }
    table.flush().at_path(&table_path)?;
    let options = ImportOptions { no_header: true, items: Some(table_path), force, cancel, ..ImportOptions::default() };
    import(&[log_path], out, &options, &mut |_| {})
}

type Originals = HashMap<&'static str, Vec<u8>>;

/// Reads the originals from a zip, from any folder in it.
fn in_zip(known: &Known, zip: impl Read + Seek, place: &str) -> Result<Originals> {
    let damaged = |e: String| {
        Error::user(format!("{place}: this zip cannot be read ({e})"))
            .hint("it is truncated or not a zip; download it again")
    };
    let mut archive = ZipArchive::new(zip).map_err(|e| damaged(e.to_string()))?;
    let mut found = Originals::new();
    for i in 0..archive.len() {
        let entry = archive.by_index(i).map_err(|e| damaged(e.to_string()))?;
        let path = entry.name().map_err(|e| damaged(e.to_string()))?;
        let name = path.rsplit('/').next().unwrap_or("").to_owned();
        if let Some(original) = [&known.log, &known.items].into_iter().find(|o| o.name == name) {
            found.insert(original.name, original.read(entry).map_err(|e| damaged(e.to_string()))?);
        }
    }
    Ok(found)
}

/// Reads the originals from a folder or from the subfolder that the zip unpacks to, plain or as gzip.
fn in_folder(known: &Known, folder: &Path) -> Result<Originals> {
    let mut found = Originals::new();
    for original in [&known.log, &known.items] {
        let folders = [folder.to_owned(), folder.join(known.name)];
        let (plain, gzip) = (original.name.to_owned(), format!("{}.gz", original.name));
        let paths = folders.iter().flat_map(|f| [f.join(&plain), f.join(&gzip)]);
        if let Some(path) = paths.into_iter().find(|p| p.is_file()) {
            let file = File::open(&path).at_path(&path)?;
            let bytes = match path.extension().is_some_and(|e| e == "gz") {
                true => original.read(GzDecoder::new(file)),
                false => original.read(file),
            };
            found.insert(original.name, bytes.at_path(&path)?);
        }
    }
    Ok(found)
}

/// Downloads a zip into memory.
fn download(known: &Known, url: &str, cancel: Option<&AtomicBool>, report: &mut dyn FnMut(Notice)) -> Result<Vec<u8>> {
    let failed = |what: String| {
        Error::user(format!("cannot get {url}: {what}")).hint(format!(
            "is this machine offline? download the file elsewhere and pass it: `mipgpu data get {} --from FILE.zip`",
            known.name
        ))
    };
    let config = ureq::Agent::config_builder()
        .user_agent(concat!("mipgpu/", env!("CARGO_PKG_VERSION")))
        // A request for https is never redirected to http.
        .https_only(url.starts_with("https:"))
        .timeout_connect(Some(Duration::from_secs(20)))
        .timeout_recv_response(Some(Duration::from_secs(60)))
        .timeout_global(Some(Duration::from_secs(1800)));
    let agent: ureq::Agent = config.build().into();
    report(Notice::Info(format!("{url}: downloading")));
    let response = agent.get(url).call().map_err(|e| failed(e.to_string()))?;
    let size = response.body().content_length();
    let mut body = response.into_body().into_with_config().limit(LARGEST_ZIP).reader();
    let (mut zip, mut chunk, mut next_report) =
        (Vec::new(), vec![0; 64 << 10], Instant::now() + Duration::from_secs(5));
    loop {
        if cancel.is_some_and(|flag| flag.load(Ordering::Relaxed)) {
            return Err(Error::user("interrupted; nothing was written"));
        }
        match body.read(&mut chunk).map_err(|e| failed(e.to_string()))? {
            0 => break,
            n => zip.extend_from_slice(&chunk[..n]),
        }
        if Instant::now() > next_report {
            let of = size.map_or(String::new(), |size| format!(" of {:.1}", size as f64 / 1e6));
            report(Notice::Info(format!("  {:.1}{of} MB", zip.len() as f64 / 1e6)));
            next_report += Duration::from_secs(5);
        }
    }
    match size {
        Some(size) if size != zip.len() as u64 => {
            Err(failed(format!("it ended after {} of {} bytes", digits(zip.len() as u64), digits(size))))
        }
        _ => Ok(zip),
    }
}

/// A temporary folder next to the output for the files to import; removed on drop.
struct Aside(PathBuf);

impl Aside {
    fn new(out: &Path) -> Result<Aside> {
        let name = out.file_name().unwrap_or_default().to_string_lossy();
        let path = out.with_file_name(format!(".{name}.getting-{}", std::process::id()));
        fs::create_dir_all(&path).at_path(&path)?;
        Ok(Aside(path))
    }
}

impl Drop for Aside {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io::Write,
        net::TcpListener,
        thread::{self, JoinHandle},
    };

    use zip::{ZipWriter, write::SimpleFileOptions};

    use sha2::{Digest, Sha256};

    use super::*;
    use crate::data::{Dataset, hex, known::movies_dat};

    const LOG: &[u8] = b"1::10::5::978300760\n1::20::3::978300761\n2::10::4::978300762\n2::30::1::978300763\n";
    // Latin-1: the byte 0xe9 is é.
    const MOVIES: &[u8] =
        b"10::Am\xe9lie, or so (2001)::Comedy|Romance\n20::Seven (a.k.a. Se7en) (1995)::Thriller\n30::1984::Drama\n";

    /// Returns a data set of four rows, with its checksums.
    fn tiny() -> Known {
        let of = |name, bytes: &[u8]| Original {
            name,
            bytes: bytes.len() as u64,
            sha256: Box::leak(hex(&Sha256::digest(bytes)).into_boxed_str()),
        };
        let (log, items) = (of("ratings.dat", LOG), of("movies.dat", MOVIES));
        Known {
            name: "tiny",
            title: "Tiny",
            url: "https://example.org/tiny.zip",
            terms: "",
            log,
            items,
            table: movies_dat,
        }
    }

    fn zipped(files: &[(&str, &[u8])]) -> Vec<u8> {
        let mut zip = ZipWriter::new(Cursor::new(Vec::new()));
        for (name, bytes) in files {
            zip.start_file(*name, SimpleFileOptions::default()).unwrap();
            zip.write_all(bytes).unwrap();
        }
        zip.finish().unwrap().into_inner()
    }

    fn whole() -> Vec<u8> {
        zipped(&[("tiny/README", b"read me"), ("tiny/ratings.dat", LOG), ("tiny/movies.dat", MOVIES)])
    }

    /// Serves one request on this machine; returns its address.
    fn serve(status: &'static str, length: usize, body: Vec<u8>) -> (String, JoinHandle<()>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/tiny.zip", listener.local_addr().unwrap());
        let server = thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = [0; 4096];
            let n = stream.read(&mut request).unwrap();
            assert!(request[..n].starts_with(b"GET /tiny.zip HTTP/1.1\r\n"));
            let head = format!("HTTP/1.1 {status}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n");
            stream.write_all(head.as_bytes()).unwrap();
            // A client that has seen the status may have disconnected.
            let _ = stream.write_all(&body);
        });
        (url, server)
    }

    fn got(from: Source, out: &Path) -> Result<Dataset> {
        get(&tiny(), &from, out, false, None, &mut |_| {})?;
        Dataset::open(out)
    }

    fn names(dir: &Path) -> usize {
        fs::read_dir(dir).map_or(0, |entries| entries.count())
    }

    #[test]
    fn a_download_a_zip_and_a_folder_give_the_same_data() {
        let dir = tempfile::tempdir().unwrap();
        let (zip, folder) = (dir.path().join("tiny.zip"), dir.path().join("unpacked"));
        fs::write(&zip, whole()).unwrap();
        fs::create_dir_all(folder.join("tiny")).unwrap();
        fs::write(folder.join("tiny/movies.dat"), MOVIES).unwrap();
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(LOG).unwrap();
        fs::write(folder.join("tiny/ratings.dat.gz"), gzip.finish().unwrap()).unwrap();
        let (url, server) = serve("200 OK", whole().len(), whole());
        let mut fingerprints = Vec::new();
        for (n, from) in [Source::Url(url), Source::Path(zip), Source::Path(folder)].into_iter().enumerate() {
            let data = got(from, &dir.path().join(format!("out/{n}"))).unwrap();
            assert_eq!((data.users(), data.items(), data.interactions()), (2, 3, 4));
            assert_eq!(data.ratings_of(1), Some(&[4.0f32, 1.0][..]));
            let values = |field: &str, item: usize| -> Vec<String> {
                data.item_fields().get(field).unwrap().values_of(item).map(str::to_owned).collect()
            };
            assert_eq!(
                (values("title", 0), values("year", 0)),
                (vec!["Amélie, or so".to_owned()], vec!["2001".to_owned()])
            );
            assert_eq!(
                (values("title", 1), values("genres", 0).join(" ")),
                (vec!["Seven (a.k.a. Se7en)".to_owned()], "Comedy Romance".into())
            );
            assert_eq!((values("title", 2), values("year", 2).len()), (vec!["1984".to_owned()], 0));
            fingerprints.push(data.fingerprint().to_owned());
        }
        server.join().unwrap();
        assert!(fingerprints.iter().all(|f| *f == fingerprints[0]));
        assert_eq!(names(&dir.path().join("out")), 3, "nothing else is left");
    }

    #[test]
    fn what_is_not_the_original_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let refusal = |zip: Vec<u8>| {
            let path = dir.path().join("it.zip");
            fs::write(&path, zip).unwrap();
            let error = got(Source::Path(path), &dir.path().join("out/it")).unwrap_err();
            assert!(
                error.hint.is_some() && error.what.contains("it.zip") && names(&dir.path().join("out")) == 0,
                "{error}"
            );
            error.to_string()
        };
        let mut altered = LOG.to_vec();
        altered[6] ^= 1;
        let longer = [LOG, b"1"].concat();
        let with = |log: &[u8]| zipped(&[("tiny/ratings.dat", log), ("tiny/movies.dat", MOVIES)]);
        assert!(refusal(with(&altered)).contains("ratings.dat is not the original: its SHA-256 differs"));
        assert!(refusal(with(&longer)).contains("holds more bytes, the original 80"));
        assert!(refusal(with(&LOG[..70])).contains("holds 70 bytes, the original 80"));
        assert!(refusal(zipped(&[("tiny/ratings.dat", LOG)])).contains("there is no movies.dat in it"));
        assert!(refusal(whole()[..100].to_vec()).contains("this zip cannot be read"));
        assert!(refusal(LOG.to_vec()).contains("this zip cannot be read"));
    }

    #[test]
    fn a_failed_download_names_address_and_way_out() {
        let dir = tempfile::tempdir().unwrap();
        // A port that was free a moment ago: no server listens there.
        let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let (missing, one) = serve("404 Not Found", 0, Vec::new());
        let (short, two) = serve("200 OK", whole().len() + 5, whole());
        for (url, why) in [(format!("http://{free}/tiny.zip"), ""), (missing, "404"), (short, "")] {
            let error = got(Source::Url(url.clone()), &dir.path().join("out")).unwrap_err();
            assert_eq!(error.kind, crate::base::error::ErrorKind::User);
            let text = error.to_string();
            assert!(text.contains(&url) && text.contains(why) && text.contains("--from FILE.zip"), "{text}");
        }
        [one, two].into_iter().for_each(|server| server.join().unwrap());
        assert_eq!(names(dir.path()), 0);
    }

    #[test]
    fn a_taken_output_is_refused_before_anything_is_fetched() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("thesis.tex"), "…").unwrap();
        let error = got(Source::Url("http://127.0.0.1:1/".into()), dir.path()).unwrap_err().to_string();
        assert!(error.contains("not a data set is already there"), "{error}");
    }
}
