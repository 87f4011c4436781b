//! Pages that hold everything they show, so that they can be mailed and opened without a network: text, tables, drawings, and a gallery that the reader sorts.

use crate::report::chart::escaped;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use std::fmt::Write;

/// A picture with numbers beside it.
#[derive(Clone, Debug)]
pub struct Picture {
    /// Its title.
    pub title: String,
    /// A PNG file's bytes; none if there is no picture.
    pub png: Option<Vec<u8>>,
    /// What it can be sorted by: in the order of the gallery's [keys](Page::gallery).
    pub values: Vec<f64>,
    /// A line of text under it.
    pub caption: String,
}

/// A page in the making.
#[derive(Debug)]
pub struct Page {
    title: String,
    body: String,
}

const STYLE: &str = "body{font:15px/1.5 system-ui,sans-serif;max-width:1100px;margin:2rem auto;padding:0 1rem;color:#1b1f24;background:#fff}\
h1{font-size:1.6rem}h2{font-size:1.2rem;margin-top:2.2rem;border-bottom:1px solid #d0d7de}\
table{border-collapse:collapse;font-variant-numeric:tabular-nums}th,td{padding:.25rem .8rem;border-bottom:1px solid #d8dee4;text-align:left}\
.number{text-align:right}svg{max-width:100%;height:auto}figure{margin:0 0 1.5rem;padding:.8rem;border:1px solid #d8dee4;border-radius:6px}\
figure img{width:100%;height:auto;background:#000}figcaption b{margin-right:.8rem}figcaption span{margin-right:.9rem;white-space:nowrap}\
nav button{font:inherit;margin:0 .3rem .8rem 0;padding:.25rem .7rem;border:1px solid #8c959f;border-radius:6px;background:#f6f8fa;cursor:pointer}\
nav button[aria-pressed=true]{background:#0072b2;color:#fff;border-color:#0072b2}pre{background:#f6f8fa;padding:.8rem;overflow:auto}";

/// Sorts the gallery by a key, largest first; a page opened with `#sort=KEY` begins with that key.
const SCRIPT: &str = "const gallery=document.querySelector('#gallery');\
const buttons=[...document.querySelectorAll('nav button')];\
function sortBy(key){const at='data-'+key;\
[...gallery.children].sort((a,b)=>b.getAttribute(at)-a.getAttribute(at)).forEach(one=>gallery.append(one));\
buttons.forEach(button=>button.setAttribute('aria-pressed',button.dataset.key===key));}\
buttons.forEach(button=>button.addEventListener('click',()=>sortBy(button.dataset.key)));\
const wish=new URLSearchParams(location.hash.slice(1)).get('sort');\
if(buttons.some(button=>button.dataset.key===wish))sortBy(wish);else if(buttons.length)sortBy(buttons[0].dataset.key);";

impl Page {
    /// A page of this title.
    pub fn new(title: &str) -> Self {
        Self {
            title: escaped(title),
            body: format!("<h1>{}</h1>\n", escaped(title)),
        }
    }

    // Writing into a String cannot fail.

    /// A heading.
    pub fn heading(&mut self, text: &str) {
        let _ = writeln!(self.body, "<h2>{}</h2>", escaped(text));
    }

    /// A paragraph.
    pub fn text(&mut self, text: &str) {
        let _ = writeln!(self.body, "<p>{}</p>", escaped(text));
    }

    /// Text as it is, in lines.
    pub fn listing(&mut self, text: &str) {
        let _ = writeln!(self.body, "<pre>{}</pre>", escaped(text));
    }

    /// A drawing, as SVG.
    pub fn drawing(&mut self, svg: &str) {
        let _ = writeln!(self.body, "<div>{svg}</div>");
    }

    /// A table; columns with numbers stand to the right.
    pub fn table<const N: usize>(&mut self, heads: &[&str; N], rows: &[[String; N]]) {
        let begins_with_digit = |cell: &String| cell.starts_with(|letter: char| letter.is_ascii_digit());
        let classes: [&str; N] = std::array::from_fn(|at| match rows.iter().any(|row| at > 0 && begins_with_digit(&row[at])) {
            true => " class=\"number\"",
            false => "",
        });
        self.body += "<table><thead><tr>";
        for (head, class) in heads.iter().zip(classes) {
            let _ = write!(self.body, "<th{class}>{}</th>", escaped(head));
        }
        self.body += "</tr></thead><tbody>\n";
        for row in rows {
            self.body += "<tr>";
            for (cell, class) in row.iter().zip(classes) {
                let _ = write!(self.body, "<td{class}>{}</td>", escaped(cell));
            }
            self.body += "</tr>\n";
        }
        self.body += "</tbody></table>\n";
    }

    /// Pictures that the reader sorts by keys, each a name for people; the first sorts them when the page is opened.
    pub fn gallery(&mut self, keys: &[&str], pictures: &[Picture]) {
        self.body += "<nav>sort by ";
        for key in keys {
            let _ = write!(
                self.body,
                "<button data-key=\"{}\" aria-pressed=\"false\">{}</button>",
                attribute(key),
                escaped(key)
            );
        }
        self.body += "</nav>\n<div id=\"gallery\">\n";
        for picture in pictures {
            self.body += "<figure";
            for (key, value) in keys.iter().zip(&picture.values) {
                let _ = write!(self.body, " data-{}=\"{value:.6}\"", attribute(key));
            }
            let _ = write!(self.body, "><figcaption><b>{}</b>", escaped(&picture.title));
            for (key, value) in keys.iter().zip(&picture.values) {
                let _ = write!(self.body, "<span>{} {value:.3}</span>", escaped(key));
            }
            let _ = write!(self.body, "<br>{}</figcaption>", escaped(&picture.caption));
            if let Some(png) = &picture.png {
                let (name, bytes) = (escaped(&picture.title).replace('"', "&quot;"), STANDARD.encode(png));
                let _ = write!(
                    self.body,
                    "<img alt=\"{name}\" loading=\"lazy\" src=\"data:image/png;base64,{bytes}\">"
                );
            }
            self.body += "</figure>\n";
        }
        self.body += "</div>\n";
    }

    /// The whole page.
    pub fn finish(self) -> String {
        let script = if self.body.contains("id=\"gallery\"") { SCRIPT } else { "" };
        format!(
            "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" content=\"width=device-width\">\
             <title>{}</title>\n<style>{STYLE}</style></head>\n<body>\n{}<script>{script}</script>\n</body></html>\n",
            self.title, self.body
        )
    }
}

/// A key as the name of an attribute.
fn attribute(key: &str) -> String {
    key.chars()
        .map(|letter| {
            if letter.is_ascii_alphanumeric() {
                letter.to_ascii_lowercase()
            } else {
                '-'
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_is_in_the_page_and_nothing_is_taken_as_markup() {
        let mut page = Page::new("a <run>");
        page.heading("scores & more");
        page.table(&["case", "Dice"], &[["x<y".to_owned(), "0.5 (0.1)".to_owned()]]);
        page.gallery(
            &["overall", "volume outlier"],
            &[Picture {
                title: "case \"1\"".into(),
                png: Some(vec![1, 2, 3]),
                values: vec![0.5, 2.0],
                caption: "liver 12 ml".into(),
            }],
        );
        let html = page.finish();
        for piece in [
            "<title>a &lt;run&gt;</title>",
            "scores &amp; more",
            "<td>x&lt;y</td><td class=\"number\">0.5 (0.1)</td>",
            "data-overall=\"0.500000\" data-volume-outlier=\"2.000000\"",
            "src=\"data:image/png;base64,AQID\"",
            "alt=\"case &quot;1&quot;\"",
        ] {
            assert!(html.contains(piece), "{piece}: {html}");
        }
        assert!(!html.contains("http://") && !html.contains("https://"), "nothing is fetched");
        assert!(!Page::new("empty").finish().contains("sortBy"));
    }
}
