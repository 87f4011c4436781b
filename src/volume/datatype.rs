//! A datatype is what one stored voxel is: its NIfTI code, its width, and how a row of such voxels becomes numbers.

/// The voxel types this program reads. Complex, colour, binary and 128-bit types are refused by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Datatype {
    /// unsigned, 8 bits
    U8,
    /// signed, 8 bits
    I8,
    /// signed, 16 bits
    I16,
    /// unsigned, 16 bits
    U16,
    /// signed, 32 bits
    I32,
    /// unsigned, 32 bits
    U32,
    /// signed, 64 bits
    I64,
    /// unsigned, 64 bits
    U64,
    /// IEEE single precision
    F32,
    /// IEEE double precision
    F64,
}

impl Datatype {
    /// Every type, for tables and tests.
    pub const ALL: [Datatype; 10] = [
        Self::U8,
        Self::I8,
        Self::I16,
        Self::U16,
        Self::I32,
        Self::U32,
        Self::I64,
        Self::U64,
        Self::F32,
        Self::F64,
    ];

    /// The type of a NIfTI `datatype` code (nifti1.h, `NIFTI_TYPE_*`), if it is one that is read.
    pub fn from_code(code: i64) -> Option<Self> {
        Self::ALL.into_iter().find(|datatype| i64::from(datatype.code()) == code)
    }

    /// The NIfTI `datatype` code.
    pub fn code(self) -> i16 {
        match self {
            Self::U8 => 2,
            Self::I16 => 4,
            Self::I32 => 8,
            Self::F32 => 16,
            Self::F64 => 64,
            Self::I8 => 256,
            Self::U16 => 512,
            Self::U32 => 768,
            Self::I64 => 1024,
            Self::U64 => 1280,
        }
    }

    /// Bytes per voxel.
    pub fn width(self) -> usize {
        match self {
            Self::U8 | Self::I8 => 1,
            Self::I16 | Self::U16 => 2,
            Self::I32 | Self::U32 | Self::F32 => 4,
            Self::I64 | Self::U64 | Self::F64 => 8,
        }
    }

    /// Whether stored values may be NaN or infinite.
    pub fn is_float(self) -> bool {
        matches!(self, Self::F32 | Self::F64)
    }
}

/// What a NIfTI code that is not read stands for, for the error message.
pub(crate) fn unreadable_type_name(code: i64) -> &'static str {
    match code {
        1 => "binary (1 bit)",
        32 => "complex, 64 bits",
        128 => "RGB colour",
        1536 => "float, 128 bits",
        1792 => "complex, 128 bits",
        2048 => "complex, 256 bits",
        2304 => "RGBA colour",
        _ => "not a NIfTI type",
    }
}

/// A row of voxels inside a stored array: element `start`, `start + step`, ... (`count` of them; all must lie inside the array).
#[derive(Clone, Copy)]
pub(crate) struct Row {
    pub start: usize,
    pub step: isize,
    pub count: usize,
}

/// Calls `sink(i, value)` for every voxel of `row` in order, values as f64 (exact for all types but 64-bit integers beyond 2^53).
pub(crate) fn decode_row(bytes: &[u8], datatype: Datatype, big_endian: bool, row: Row, mut sink: impl FnMut(usize, f64)) {
    macro_rules! walk_as {
        ($t:ty) => {
            if big_endian {
                walk(bytes, row, |b| <$t>::from_be_bytes(b) as f64, &mut sink)
            } else {
                walk(bytes, row, |b| <$t>::from_le_bytes(b) as f64, &mut sink)
            }
        };
    }
    match datatype {
        Datatype::U8 => walk_as!(u8),
        Datatype::I8 => walk_as!(i8),
        Datatype::I16 => walk_as!(i16),
        Datatype::U16 => walk_as!(u16),
        Datatype::I32 => walk_as!(i32),
        Datatype::U32 => walk_as!(u32),
        Datatype::I64 => walk_as!(i64),
        Datatype::U64 => walk_as!(u64),
        Datatype::F32 => walk_as!(f32),
        Datatype::F64 => walk_as!(f64),
    }
}

fn walk<const W: usize>(bytes: &[u8], row: Row, read: impl Fn([u8; W]) -> f64, sink: &mut impl FnMut(usize, f64)) {
    let (voxels, _) = bytes.as_chunks::<W>();
    if row.step == 1 {
        for (i, voxel) in voxels[row.start..row.start + row.count].iter().enumerate() {
            sink(i, read(*voxel));
        }
    } else {
        let mut at = row.start;
        for i in 0..row.count {
            sink(i, read(voxels[at]));
            at = at.wrapping_add_signed(row.step);
        }
    }
}
