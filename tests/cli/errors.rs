//! All errors of the command line have one form: `mipgpu: error: WHAT`, then `  hint: DO THIS`, exit code 1.

use super::Place;

#[test]
fn errors_of_the_parser_are_worded_like_all_others() {
    let p = Place::new();
    for (words, what, hint) in [
        ("train data --lr abc", "--lr abc is not a number", "such as --lr 0.0015"),
        ("train data --width 6.5", "--width 6.5 is not a whole number from 0 up", "such as --width 128"),
        ("train data --lr", "--lr requires a value", "such as --lr 0.0015"),
        ("train data --norm mid", "--norm does not accept 'mid'", "--norm accepts: post, pre"),
        ("train data --epoch 3", "`mipgpu train` has no flag '--epoch'", "did you mean '--epochs'?"),
        ("train data --zzz", "`mipgpu train` has no flag '--zzz'", "`mipgpu train --help-all` lists its flags"),
        ("train data more", "'more' is one argument too many", "write mipgpu train [OPTIONS] [DATA]"),
        ("evaluate data", "there is no command 'evaluate'", "did you mean `mipgpu eval`?"),
        ("eval", "a required argument is missing: <RUN>", "write mipgpu eval "),
        ("recommend run", "a required argument is missing: one of --users, ", "write mipgpu recommend "),
        ("train data --resume run", "cannot be used with", "omit one of them"),
        ("train data --lr 1 --lr 2", "--lr is given more than once", "give it once"),
        ("compare one", "RUN: 1 value is given, at least 2 are required", "write mipgpu compare "),
        ("check --seeds 0", "--seeds 0 is out of range", "a whole number from 1 up is expected"),
        ("train data --device gpu", "--device does not accept 'gpu'", "devices are auto, cpu, cuda, cuda:N"),
        ("data get nothing", "NAME does not accept 'nothing'", "ml-1m"),
    ] {
        let done = p.run(words);
        assert_eq!((done.code, done.out.as_str()), (Some(1), ""), "{words}: {done:?}");
        let lines: Vec<&str> = done.err.lines().collect();
        assert_eq!(lines.len(), 2, "{words}: {}", done.err);
        let said = lines[0].strip_prefix("mipgpu: error: ").unwrap_or_else(|| panic!("{words}: {}", done.err));
        let advice = lines[1].strip_prefix("  hint: ").unwrap_or_else(|| panic!("{words}: {}", done.err));
        assert!(said.contains(what) && advice.contains(hint), "{words}: {}", done.err);
        for word in ["tip:", "For more information", "literal", "Usage"] {
            assert!(!done.err.contains(word), "{words}: '{word}' in {}", done.err);
        }
    }
    // Settings files and searches read values as flags are read.
    p.write("bad.toml", "lr = \"abc\"\n");
    p.refused("train data --out run --config bad.toml", &["bad.toml: --lr abc is not a number", "such as --lr 0.0015"]);
    p.refused("search --out s --over lr=abc -- train data", &["--over lr=abc: --lr abc is not a number"]);
}
