//! Dates in other layouts and time zones: read if a flag specifies them, otherwise a hint suggests it.

use mipgpu::data::ImportOptions;

use crate::import::{imported, refusal, refusal_of};

fn as_in(time_format: Option<&str>, time_zone: Option<&str>) -> ImportOptions {
    ImportOptions {
        time_format: time_format.map(Into::into),
        time_zone: time_zone.map(Into::into),
        ..Default::default()
    }
}

#[test]
fn dates_of_a_named_layout_are_read() {
    let log = "user,item,time\na,x,11/14/2023 22:13\na,y,01/02/2023 00:00\n";
    let (data, summary, talk) = imported(log, as_in(Some("%m/%d/%Y %H:%M"), None));
    // 2023-01-02 is day 19,359 since 1970; 2023-11-14 is 316 days later.
    assert_eq!(data.times_of(0).unwrap(), [19_359 * 86_400, 19_675 * 86_400 + 22 * 3600 + 13 * 60], "{talk}");
    assert_eq!(summary.time_unit.as_deref(), Some("s"));
    assert!(talk.contains("dates as '%m/%d/%Y %H:%M', in UTC where they name no zone"), "{talk}");
    let json = "{\"user\":\"a\",\"item\":\"x\",\"time\":\"11/14/2023 22:13\"}\n\
                {\"user\":\"a\",\"item\":\"y\",\"time\":\"01/02/2023 00:00\"}\n";
    assert_eq!(imported(json, as_in(Some("%m/%d/%Y %H:%M"), None)).0.fingerprint(), data.fingerprint());
    let error = refusal_of("log.csv", log, as_in(Some("%d/%m/%Y %H:%M"), None)).to_string();
    assert!(error.contains("line 2, column 'time': '11/14/2023 22:13' is not a time"), "{error}");
    let (data, summary, _) = imported(
        "user,item,time\na,x,14.11.2023 10:00:00.25\na,y,14.11.2023 10:00:00.5\n",
        as_in(Some("%d.%m.%Y %H:%M:%S%.f"), None),
    );
    assert_eq!(
        (summary.time_unit.as_deref(), data.times_of(0).unwrap()[1] - data.times_of(0).unwrap()[0]),
        (Some("ms"), 250)
    );
}

#[test]
fn dates_of_a_place_are_read_by_its_clocks() {
    let log = "user,item,time\na,x,2023-07-01 12:00\na,y,2023-12-01 12:00\na,z,2023-12-01T12:00:00Z\n";
    let (utc, ..) = imported(log, Default::default());
    let (berlin, ..) = imported(log, as_in(None, Some("Europe/Berlin")));
    let differences: Vec<i64> =
        utc.times_of(0).unwrap().iter().zip(berlin.times_of(0).unwrap()).map(|(a, b)| (a - b) / 3600).collect();
    assert_eq!(differences, [2, 1, 0], "summer, winter, a zone of its own");
    let error =
        refusal_of("log.csv", "user,item,time\na,x,1700000000\n", as_in(None, Some("Europe/Berlin"))).to_string();
    assert!(error.contains("--time-zone is for dates"), "{error}");
    let error = refusal_of("log.csv", "user,item\na,x\n", as_in(Some("%Y-%m-%d"), None)).to_string();
    assert!(error.contains("need a time") && error.contains("--time-col"), "{error}");
    let error = refusal_of("log.csv", log, as_in(None, Some("Mars/Olympus"))).to_string();
    assert!(error.contains("--time-zone Mars/Olympus: no such time zone"), "{error}");
}

#[test]
fn a_layout_is_hinted_at_and_never_guessed() {
    let error = refusal("user,item,time\na,x,11/14/2023 22:13\n");
    assert!(error.contains("add --time-format '%m/%d/%Y %H:%M'"), "{error}");
    let error = refusal("user,item,time\na,x,04/05/2023\na,y,06/05/2023\n");
    assert!(error.contains("--time-format %m/%d/%Y or --time-format %d/%m/%Y"), "{error}");
    let error = refusal("user,item,time\na,x,soon\n");
    assert!(!error.contains("fit"), "{error}");
}
