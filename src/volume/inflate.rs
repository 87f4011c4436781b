//! Reading gzip: all members of a file, as one stream. (bgzip and parallel compressors write many; a reader of the first alone would see a
//! truncated volume, or none of it.)

use std::io::{self, BufRead, Read};

use flate2::bufread::GzDecoder;

/// The bytes of all gzip members, one after the other. Every member's checksum is verified at its end. Zero bytes after the last member
/// (padding of tapes and block devices) are ignored; anything else there is an error.
pub(crate) struct Inflater<R: BufRead> {
    member: Member<R>,
}

enum Member<R: BufRead> {
    Open(Box<GzDecoder<R>>),
    Ended,
}

impl<R: BufRead> Inflater<R> {
    pub fn new(compressed: R) -> Self {
        Self {
            member: Member::Open(Box::new(GzDecoder::new(compressed))),
        }
    }
}

impl<R: BufRead> Read for Inflater<R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        if out.is_empty() {
            return Ok(0);
        }
        while let Member::Open(decoder) = &mut self.member {
            let n = decoder.read(out)?;
            if n > 0 {
                return Ok(n);
            }
            let Member::Open(decoder) = std::mem::replace(&mut self.member, Member::Ended) else {
                break;
            };
            let mut rest = decoder.into_inner();
            if next_member_follows(&mut rest)? {
                self.member = Member::Open(Box::new(GzDecoder::new(rest)));
            }
        }
        Ok(0)
    }
}

fn next_member_follows(rest: &mut impl BufRead) -> io::Result<bool> {
    loop {
        let bytes = rest.fill_buf()?;
        match bytes.first() {
            None => return Ok(false),
            Some(0x1f) => return Ok(true),
            Some(0) => {
                let zeros = bytes.iter().take_while(|&&byte| byte == 0).count();
                rest.consume(zeros);
            }
            Some(_) => {
                return Err(io::Error::new(
                    io::ErrorKind::InvalidData,
                    "bytes that are not gzip follow the compressed data",
                ));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn member(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::new(1));
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    fn inflate(file: &[u8]) -> io::Result<Vec<u8>> {
        let mut out = Vec::new();
        // A tiny buffer, so that members end in the middle and at the edge of what has been read.
        Inflater::new(io::BufReader::with_capacity(7, file)).read_to_end(&mut out)?;
        Ok(out)
    }

    #[test]
    fn all_members_empty_ones_too_are_read_as_one_stream() {
        let file = [member(b"one"), member(b""), member(b"two"), vec![0; 20]].concat();
        assert_eq!(inflate(&file).unwrap(), b"onetwo");
    }

    #[test]
    fn a_stream_that_ends_early_or_is_followed_by_other_bytes_is_an_error() {
        let file = [member(b"one"), member(b"two")].concat();
        assert_eq!(inflate(&file[..file.len() - 3]).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
        assert_eq!(
            inflate(&[file, b"more".to_vec()].concat()).unwrap_err().kind(),
            io::ErrorKind::InvalidData
        );
    }

    #[test]
    fn a_wrong_checksum_is_an_error() {
        let mut file = member(b"some bytes");
        let at = file.len() - 6;
        file[at] ^= 1;
        assert!(inflate(&file).is_err());
    }
}
