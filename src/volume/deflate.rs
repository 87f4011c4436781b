//! Writing gzip in parallel: blocks of a fixed size are compressed on all threads, each ending on a byte boundary, and strung together into
//! ONE deflate stream of one gzip member. (Many members would be simpler, but readers that know one member alone would lose the rest.)
//! Block size and level are constants, so the bytes do not depend on the number of threads.

use std::io::{self, Write};

use flate2::{Compress, Compression, Crc, FlushCompress, Status};
use rayon::prelude::*;

/// Uncompressed bytes per block: enough that a fresh window costs nothing to speak of, small enough that a mask keeps many threads busy.
const BLOCK: usize = 1 << 18;

/// Measured on one thread (512 x 512 x 40; 8-bit mask, then a noisy f32 map): level 1 3.7 and 410 ms, but the mask is three times as large and the
/// map larger than raw; level 2 4.5 and 780 ms; level 3 5.1 and 990 ms for the same map; level 6 16 ms and 1.9 s.
const LEVEL: u32 = 2;

/// RFC 1952: magic, deflate, no flags, modification time 0, no extra flags, unknown operating system. Same input, same bytes.
const GZIP_HEADER: [u8; 10] = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255];

/// RFC 1951: a final block with fixed codes that holds nothing but its end.
const EMPTY_FINAL_BLOCK: [u8; 2] = [3, 0];

/// Writes `parts`, one after the other, as one gzip member.
pub(crate) fn write_gzip(parts: &[&[u8]], out: &mut impl Write) -> io::Result<()> {
    let blocks: Vec<&[u8]> = parts.iter().flat_map(|part| part.chunks(BLOCK)).collect();
    let mut checksum = Crc::new();
    out.write_all(&GZIP_HEADER)?;
    // In groups, so that the compressed blocks that wait to be written are few even of a large volume.
    for group in blocks.chunks(4 * rayon::current_num_threads()) {
        let compressed: Vec<(Vec<u8>, Crc)> = group.par_iter().map(|block| compress(block)).collect::<io::Result<_>>()?;
        for (bytes, block_checksum) in compressed {
            checksum.combine(&block_checksum);
            out.write_all(&bytes)?;
        }
    }
    out.write_all(&EMPTY_FINAL_BLOCK)?;
    out.write_all(&checksum.sum().to_le_bytes())?;
    out.write_all(&checksum.amount().to_le_bytes()) // modulo 2^32, as the format has it
}

/// One block as raw deflate, not final, ended by an empty stored block (sync flush), which brings it to a byte boundary.
fn compress(block: &[u8]) -> io::Result<(Vec<u8>, Crc)> {
    let mut checksum = Crc::new();
    checksum.update(block);
    let mut deflate = Compress::new(Compression::new(LEVEL), false);
    let mut out = Vec::new();
    loop {
        out.try_reserve(block.len() / 8 + 1024)?;
        let rest = &block[deflate.total_in() as usize..];
        let status = deflate
            .compress_vec(rest, &mut out, FlushCompress::Sync)
            .map_err(io::Error::other)?;
        // Room left over is the sign that the flush is complete (zlib.h, deflate).
        if deflate.total_in() as usize == block.len() && out.len() < out.capacity() {
            return Ok((out, checksum));
        }
        if status == Status::StreamEnd {
            return Err(io::Error::other("the compressor stopped early"));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use rand::{RngExt, SeedableRng};

    use super::*;

    #[test]
    fn noise_runs_and_block_edges_come_back_through_a_single_member_reader() {
        let mut random = rand_chacha::ChaCha8Rng::seed_from_u64(5);
        for length in [0, 1, BLOCK - 1, BLOCK, BLOCK + 1, 3 * BLOCK + 17] {
            let noise: Vec<u8> = (0..length).map(|_| random.random()).collect();
            let runs: Vec<u8> = (0..length).map(|i| (i / 1000) as u8).collect();
            for bytes in [noise, runs] {
                let mut file = Vec::new();
                write_gzip(&[b"header", &bytes], &mut file).unwrap();
                let mut back = Vec::new();
                let mut decoder = flate2::bufread::GzDecoder::new(&file[..]);
                decoder.read_to_end(&mut back).unwrap();
                assert!(back == [&b"header"[..], &bytes].concat(), "{length} bytes changed");
                assert!(decoder.into_inner().is_empty(), "bytes are left after the one member");
            }
        }
    }
}
