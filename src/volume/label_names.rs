//! Names of labels in a NIfTI file: a header extension with the label table of Caret and Connectome Workbench (XML), which TotalSegmentator
//! writes and reads too.

use std::fmt::Write;

/// The table is written twice, under two codes: 0 ("ignore"), which TotalSegmentator writes and its readers expect in the first extension
/// (nibabel 5.4 returns no content for 30), and 30, Caret's own (nifti1_io.h, `NIFTI_ECODE_CARET`), the only one Workbench looks at.
const CODES: [i32; 2] = [0, 30];

/// What stands between header and voxels: the extension flag, and with labels the extensions, each padded to a multiple of 16 bytes.
pub(crate) fn extension_bytes(labels: &[(u16, String)]) -> Vec<u8> {
    if labels.is_empty() {
        return vec![0; 4];
    }
    let mut content = table(labels).into_bytes();
    while !(content.len() + 8).is_multiple_of(16) {
        content.push(b' '); // not zeros: XML parsers take the content as it is
    }
    let size = content.len() as i32 + 8;
    let mut bytes = vec![1, 0, 0, 0];
    for code in CODES {
        bytes.extend([&size.to_le_bytes()[..], &code.to_le_bytes(), &content].concat());
    }
    bytes
}

fn table(labels: &[(u16, String)]) -> String {
    let mut xml =
        String::from("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<CaretExtension>\n<VolumeInformation Index=\"0\">\n<LabelTable>\n");
    for (key, name) in labels {
        let [red, green, blue] = colour(*key);
        // Characters that XML knows no way to write become spaces; the end of a CDATA section is split over two.
        let name: String = name.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
        let name = name.replace("]]>", "]]]]><![CDATA[>");
        // Writing into a string cannot fail.
        let _ = writeln!(
            xml,
            "<Label Key=\"{key}\" Red=\"{red:.4}\" Green=\"{green:.4}\" Blue=\"{blue:.4}\" Alpha=\"1\"><![CDATA[{name}]]></Label>"
        );
    }
    xml.push_str("</LabelTable>\n<VolumeType><![CDATA[Label]]></VolumeType>\n</VolumeInformation>\n</CaretExtension>\n");
    xml
}

/// Hues a golden angle apart: neighbouring keys differ clearly, and a key has the same colour in every file.
fn colour(key: u16) -> [f64; 3] {
    let hue = f64::from(key) * 0.618_033_988_749_895;
    [0.0, 1.0 / 3.0, 2.0 / 3.0].map(|shift| 0.55 + 0.4 * ((hue + shift) * std::f64::consts::TAU).cos())
}
