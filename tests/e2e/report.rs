//! The report as a browser shows it: headless Chromium, where there is one.

use super::{Answer, Phantoms};
use regex::Regex;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

/// What Chromium says of a page.
fn chromium(arguments: &[&str]) -> Option<String> {
    for program in ["chromium", "chromium-browser", "google-chrome"] {
        let folder = tempfile::tempdir().unwrap();
        let profile = format!("--user-data-dir={}", folder.path().display());
        let mut command = Command::new(program);
        command.args(["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", &profile]);
        // Nothing is to be fetched; what is asked for fails at once.
        command.arg("--host-resolver-rules=MAP * ~NOTFOUND").args(arguments);
        if let Ok(output) = command.stdin(Stdio::null()).output() {
            return Some(String::from_utf8(output.stdout).unwrap());
        }
    }
    None
}

/// The gallery's titles and what they are sorted by, in the order of the page.
fn order(page: &str, key: &str) -> Vec<(String, f64)> {
    let figure = Regex::new(&format!("<figure[^>]* data-{key}=\"([-0-9.]+)\"[^>]*><figcaption><b>([^<]*)</b>")).unwrap();
    let found = figure.captures_iter(page);
    found.map(|one| (one[2].to_owned(), one[1].parse().unwrap())).collect()
}

fn colourful_pixels(png: &Path) -> usize {
    let mut reader = png::Decoder::new(std::io::BufReader::new(fs::File::open(png).unwrap()))
        .read_info()
        .unwrap();
    let mut pixels = vec![0; reader.output_buffer_size().unwrap()];
    let info = reader.next_frame(&mut pixels).unwrap();
    let size = info.color_type.samples();
    let spread = |pixel: &[u8]| pixel[..3].iter().max().unwrap() - pixel[..3].iter().min().unwrap();
    pixels[..info.buffer_size()]
        .chunks_exact(size)
        .filter(|pixel| spread(pixel) > 80)
        .count()
}

#[test]
fn a_browser_shows_the_report_and_sorts_its_cases() {
    let phantoms = Phantoms::new(6, 2, [6, 48, 48]);
    let at = |name: &str| phantoms.at(name).to_str().unwrap().to_owned();
    let mut run = Command::new(env!("CARGO_BIN_EXE_hpc-seg"));
    run.args(["run", "--labelled", &at("data"), "--unlabelled", &at("data"), "--test", &at("data")]);
    run.args(["--weights", &at("demo.safetensors"), "--out", &at("out"), "--rounds", "1"]);
    run.args(["--label-options", "--insertions 1", "--train-options", "--epochs 2 --iterations 4"]);
    run.args(["--plan-options", "--patch 6,48,48 --features 4 --batch 2 --spacing 28,7,7"]);
    Answer::of(run.output().unwrap()).expect(0, &[]);
    let report = phantoms.at("out/report.html");
    let html = fs::read_to_string(&report).unwrap();
    assert!(!Regex::new("(src|href)=\"?http").unwrap().is_match(&html), "nothing is fetched");
    fs::remove_file(&report).unwrap();
    let mut again = Command::new(env!("CARGO_BIN_EXE_hpc-seg"));
    Answer::of(again.args(["report", &at("out")]).output().unwrap()).expect(0, &["report.html"]);
    assert!(fs::read_to_string(&report).unwrap() == html, "made again, it is the same");

    let address = format!("file://{}", report.display());
    let Some(page) = chromium(&["--dump-dom", &address]) else {
        println!("skipped: there is no Chromium (apt-get install chromium)");
        return;
    };
    for piece in [
        "On the test cases",
        "liver",
        "TFFS",
        "round 1",
        "insertions 1",
        "Dice on held-out patches",
        "the pseudo-labels of TFFS by hpc-seg 0.1.0 on cpu",
    ] {
        assert!(page.contains(piece), "{piece}");
    }
    for key in ["overall", "uncertainty", "disagreement", "volume-outlier", "components"] {
        let page = chromium(&["--dump-dom", &format!("{address}#sort={key}")]).unwrap();
        let order = order(&page, key);
        assert_eq!(order.len(), 4, "{key}");
        assert!(order.windows(2).all(|two| two[0].1 >= two[1].1), "{key}: {order:?}");
        assert!(page.contains(&format!("data-key=\"{key}\" aria-pressed=\"true\"")), "{key}");
    }
    assert_eq!(order(&page, "overall").len(), 4);
    let picture = phantoms.at("page.png");
    chromium(&["--window-size=1200,4000", &format!("--screenshot={}", picture.display()), &address]).unwrap();
    assert!(colourful_pixels(&picture) > 5000, "outlines and curves are seen");
}
