//! Nearness of dotted names: an edit distance over segments, in which a segment may be respelt, missing or extra.

/// What a missing or extra segment costs; a segment replaced by an unrelated one costs 1.
const GAP: f32 = 0.4;
/// Names whose distance is more than this share of the longer one's segments are strangers.
const LIMIT: f32 = 0.4;
/// At most this many names are suggested.
const SHOWN: usize = 3;
/// Names longer than this are not compared: the distance takes the product of the lengths.
const LONGEST: usize = 256;

pub(super) fn nearest<'a>(wanted: &str, candidates: impl Iterator<Item = &'a str>) -> Vec<&'a str> {
    if wanted.len() > LONGEST {
        return Vec::new();
    }
    let wanted: Vec<&str> = wanted.split('.').collect();
    let mut scored: Vec<(f32, &str)> = Vec::new();
    for name in candidates.filter(|name| name.len() <= LONGEST) {
        let segments: Vec<&str> = name.split('.').collect();
        let cost = edit_cost(&wanted, &segments, GAP, segment_distance);
        if cost <= LIMIT * wanted.len().max(segments.len()) as f32 {
            scored.push((cost, name));
        }
    }
    scored.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(b.1)));
    // What is much further than the best would only distract from it.
    let furthest = scored.first().map_or(0.0, |(best, _)| 2.0 * best + 0.25);
    scored
        .into_iter()
        .take(SHOWN)
        .take_while(|(cost, _)| *cost <= furthest)
        .map(|(_, name)| name)
        .collect()
}

/// 0 for equal segments, 1 for unrelated ones.
fn segment_distance(a: &&str, b: &&str) -> f32 {
    if a == b {
        return 0.0;
    }
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let longest = a.len().max(b.len()).max(1) as f32;
    edit_cost(&a, &b, 1.0, |x, y| if x == y { 0.0 } else { 1.0 }) / longest
}

/// Levenshtein distance with the given costs of a gap and of a replacement.
fn edit_cost<T>(a: &[T], b: &[T], gap: f32, replace: impl Fn(&T, &T) -> f32) -> f32 {
    let mut row: Vec<f32> = (0..=b.len()).map(|j| j as f32 * gap).collect();
    for (i, x) in a.iter().enumerate() {
        let mut diagonal = row[0];
        row[0] = (i + 1) as f32 * gap;
        for (j, y) in b.iter().enumerate() {
            let cost = (diagonal + replace(x, y)).min(row[j] + gap).min(row[j + 1] + gap);
            diagonal = row[j + 1];
            row[j + 1] = cost;
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAMES: [&str; 5] = [
        "sam_mask_decoder.iou_prediction_head.layers.0.weight",
        "sam_mask_decoder.iou_prediction_head.layers.0.bias",
        "image_encoder.trunk.blocks.0.norm1.weight",
        "image_encoder.trunk.blocks.1.norm1.weight",
        "no_mem_embed",
    ];

    #[test]
    fn an_extra_segment_and_a_respelt_one_are_near() {
        assert_eq!(
            nearest("mask_decoder.iou_prediction_head.layers.0.bias", NAMES.into_iter())[0],
            NAMES[1]
        );
        assert_eq!(nearest("trunk.blocks.1.norm1.weight", NAMES.into_iter())[0], NAMES[3]);
        assert_eq!(nearest("no_mem_embedding", NAMES.into_iter()), ["no_mem_embed"]);
    }

    #[test]
    fn strangers_are_not_suggested() {
        assert!(nearest("decoder.stages.4.conv", NAMES.into_iter()).is_empty());
        assert!(nearest(&"a.".repeat(10_000), NAMES.into_iter()).is_empty());
    }
}
