//! numpy's legacy random numbers (`numpy.random.RandomState`): the few draws that nnU-Net's files depend on, to the bit.
//!
//! Mersenne Twister MT19937 (Matsumoto and Nishimura 1998) seeded by one integer; integers of a range by masking and rejecting 32-bit outputs.

const N: usize = 624;
const M: usize = 397;

/// `numpy.random.RandomState(seed)`.
pub struct RandomState {
    state: [u32; N],
    next: usize,
}

impl RandomState {
    /// Seeded.
    pub fn new(seed: u32) -> Self {
        let mut state = [seed; N];
        for i in 1..N {
            let before = state[i - 1];
            state[i] = 1_812_433_253_u32.wrapping_mul(before ^ (before >> 30)).wrapping_add(i as u32);
        }
        Self { state, next: N }
    }

    fn next_u32(&mut self) -> u32 {
        if self.next == N {
            self.regenerate();
        }
        let mut y = self.state[self.next];
        self.next += 1;
        y ^= y >> 11;
        y ^= (y << 7) & 0x9d2c_5680;
        y ^= (y << 15) & 0xefc6_0000;
        y ^ (y >> 18)
    }

    fn regenerate(&mut self) {
        for i in 0..N {
            let y = (self.state[i] & 0x8000_0000) | (self.state[(i + 1) % N] & 0x7fff_ffff);
            let odd = if y & 1 == 1 { 0x9908_b0df } else { 0 };
            self.state[i] = self.state[(i + M) % N] ^ (y >> 1) ^ odd;
        }
        self.next = 0;
    }

    /// A number of 0..=most, each as likely.
    fn up_to(&mut self, most: u32) -> u32 {
        if most == 0 {
            return 0;
        }
        let mask = u32::MAX >> most.leading_zeros();
        loop {
            let value = self.next_u32() & mask;
            if value <= most {
                return value;
            }
        }
    }

    /// `shuffle(items)`.
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for i in (1..items.len()).rev() {
            items.swap(i, self.up_to(i as u32) as usize);
        }
    }

    /// `choice(n, count, replace=False)`: different numbers below `n`, which is below 2^32.
    pub fn choice(&mut self, n: usize, count: usize) -> Vec<u32> {
        let mut all: Vec<u32> = (0..n as u32).collect();
        self.shuffle(&mut all);
        all.truncate(count);
        all
    }

    /// `choice(items, count, replace=True)`, one after the other; `items` are not empty and fewer than 2^32.
    pub fn draw<'a, T: Copy>(&'a mut self, items: &'a [T], count: usize) -> impl Iterator<Item = T> + 'a {
        let most = (items.len() - 1) as u32;
        (0..count).map(move |_| items[self.up_to(most) as usize])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn draws_are_numpys() {
        let mut ten: Vec<u32> = (0..10).collect();
        RandomState::new(12345).shuffle(&mut ten);
        assert_eq!(ten, [0, 7, 3, 9, 6, 4, 1, 8, 5, 2]);
        assert_eq!(RandomState::new(12352).choice(10, 8), [4, 6, 0, 9, 1, 7, 2, 8]);
        assert_eq!(RandomState::new(1234).choice(20, 5), [3, 13, 2, 16, 14]);
    }

    #[test]
    fn draws_with_replacement_are_numpys_beyond_one_block_of_the_generator() {
        // numpy 2: RandomState(1234).choice(arange(1000), 2000)[[0, 1, 2, 1998, 1999]] and its sum.
        let items: Vec<u64> = (0..1000).collect();
        let mut random = RandomState::new(1234);
        let drawn: Vec<u64> = random.draw(&items, 2000).collect();
        assert_eq!(DRAWN, [drawn[0], drawn[1], drawn[2], drawn[1998], drawn[1999], drawn.iter().sum()]);
    }

    const DRAWN: [u64; 6] = [815, 723, 294, 957, 763, 1_018_878];
}
