//! Just enough of Rust's (and C++'s) lexical rules to look at code without its comments and strings.

/// The text with every comment, string and character literal blanked out; lines stay where they are.
pub fn code_of(text: &str) -> String {
    let letters: Vec<char> = text.chars().collect();
    let mut code = String::with_capacity(text.len());
    let mut at = 0;
    while at < letters.len() {
        let end = end_of_literal(&letters, at);
        match end {
            Some(end) => code.extend(letters[at..end].iter().map(|letter| if *letter == '\n' { '\n' } else { ' ' })),
            None => code.push(letters[at]),
        }
        at = end.unwrap_or(at + 1);
    }
    code
}

/// Where the comment or literal that starts at `at` ends, if one starts there.
fn end_of_literal(letters: &[char], at: usize) -> Option<usize> {
    let letter = |offset: usize| letters.get(at + offset).copied().unwrap_or('\0');
    match (letter(0), letter(1)) {
        ('/', '/') => Some(position(letters, at, |rest| rest[0] == '\n')),
        ('/', '*') => Some(end_of_block_comment(letters, at)),
        ('"', _) => Some(end_of_string(letters, at)),
        ('r', '"' | '#') if at == 0 || !is_word(letters[at - 1]) || letters[at - 1] == 'b' => end_of_raw_string(letters, at),
        // 'x' and '\n' are characters; 'a without a closing quote is a lifetime.
        ('\'', '\\') => Some((position(letters, at + 3, |rest| rest[0] == '\'') + 1).min(letters.len())),
        ('\'', _) if letter(2) == '\'' => Some(at + 3),
        _ => None,
    }
}

fn end_of_block_comment(letters: &[char], at: usize) -> usize {
    let (mut depth, mut index) = (0_usize, at);
    while index < letters.len() {
        match &letters[index..] {
            ['/', '*', ..] => (depth, index) = (depth + 1, index + 2),
            ['*', '/', ..] => (depth, index) = (depth - 1, index + 2),
            _ => index += 1,
        }
        if depth == 0 {
            return index;
        }
    }
    letters.len()
}

fn end_of_string(letters: &[char], at: usize) -> usize {
    let mut index = at + 1;
    while index < letters.len() {
        match letters[index] {
            '\\' => index += 2,
            '"' => return index + 1,
            _ => index += 1,
        }
    }
    letters.len()
}

fn end_of_raw_string(letters: &[char], at: usize) -> Option<usize> {
    let hashes = letters[at + 1..].iter().take_while(|letter| **letter == '#').count();
    let start = at + 1 + hashes;
    if letters.get(start) != Some(&'"') {
        return None; // a raw identifier such as r#type
    }
    let closes = |rest: &[char]| rest[0] == '"' && rest[1..].iter().take_while(|letter| **letter == '#').count() >= hashes;
    Some((position(letters, start + 1, closes) + 1 + hashes).min(letters.len()))
}

/// The first index from `at` at which `is_there` holds for the rest, or the end.
fn position(letters: &[char], at: usize, is_there: impl Fn(&[char]) -> bool) -> usize {
    (at..letters.len())
        .find(|index| is_there(&letters[*index..]))
        .unwrap_or(letters.len())
}

fn is_word(letter: char) -> bool {
    letter.is_alphanumeric() || letter == '_'
}

/// Bodies of the items that begin where `heads` says (byte offsets into `code`): first line and number of lines, to the closing brace.
/// An item that ends in a semicolon has no body.
pub fn bodies(code: &str, heads: impl Iterator<Item = usize>) -> Vec<(usize, usize)> {
    heads
        .filter_map(|head| Some((line_at(code, head), end_of_body(code, head)?)))
        .map(|(line, end)| (line, line_at(code, end) + 1 - line))
        .collect()
}

/// The line (from 1) of a byte offset.
pub fn line_at(text: &str, offset: usize) -> usize {
    text[..offset].matches('\n').count() + 1
}

fn end_of_body(code: &str, head: usize) -> Option<usize> {
    let (mut nested, mut braces) = (0_i32, 0_i32);
    for (offset, letter) in code[head..].char_indices() {
        match letter {
            '(' | '[' => nested += 1,
            ')' | ']' => nested -= 1,
            '{' => braces += 1,
            '}' => braces -= 1,
            ';' if nested == 0 && braces == 0 => return None,
            _ => {}
        }
        if letter == '}' && braces == 0 && nested == 0 {
            return Some(head + offset);
        }
    }
    None
}
