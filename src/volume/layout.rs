//! A layout says where each field of a NIfTI header lies; the two versions of the format differ in nothing else that matters here.

/// A run of equal fields: the first at byte `at`, each `width` bytes wide.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Field {
    pub at: usize,
    pub width: usize,
}

const fn field(at: usize, width: usize) -> Field {
    Field { at, width }
}

/// Places of the fields that are read or set. Numbers stand in the order of nifti1.h and nifti2.h.
#[derive(Debug)]
pub(crate) struct Layout {
    /// length of the header, which is also the value of its first field
    pub size: usize,
    pub magic_at: usize,
    /// magic of header and voxels in one file
    pub magic_single: &'static [u8],
    /// magic of a `.hdr`/`.img` pair
    pub magic_pair: &'static [u8],
    pub dim: Field,
    pub datatype: Field,
    pub bitpix: Field,
    pub pixdim: Field,
    pub vox_offset: Field,
    /// whether `vox_offset` is a float (version 1) or an integer
    pub vox_offset_is_float: bool,
    pub scl_slope: Field,
    pub scl_inter: Field,
    pub cal_max: Field,
    pub cal_min: Field,
    pub intent_p: Field,
    pub intent_code: Field,
    pub intent_name_at: usize, // 16 bytes
    pub descrip_at: usize,     // 80 bytes
    pub aux_file_at: usize,    // 24 bytes
    pub xyzt_units: Field,
    pub qform_code: Field,
    pub sform_code: Field,
    /// b, c, d, then the offsets x, y, z
    pub quatern: Field,
    /// rows x, y, z of four numbers each
    pub srow: Field,
    /// every multi-byte field as (place, width, how many): what a change of byte order touches
    pub numbers: &'static [(usize, usize, usize)],
}

/// NIfTI-1: 348 bytes, 16-bit sizes, single precision.
pub(crate) const VERSION_1: Layout = Layout {
    size: 348,
    magic_at: 344,
    magic_single: b"n+1\0",
    magic_pair: b"ni1\0",
    dim: field(40, 2),
    intent_p: field(56, 4),
    intent_code: field(68, 2),
    datatype: field(70, 2),
    bitpix: field(72, 2),
    pixdim: field(76, 4),
    vox_offset: field(108, 4),
    vox_offset_is_float: true,
    scl_slope: field(112, 4),
    scl_inter: field(116, 4),
    xyzt_units: field(123, 1),
    cal_max: field(124, 4),
    cal_min: field(128, 4),
    descrip_at: 148,
    aux_file_at: 228,
    qform_code: field(252, 2),
    sform_code: field(254, 2),
    quatern: field(256, 4),
    srow: field(280, 4),
    intent_name_at: 328,
    numbers: &[
        (0, 4, 1),
        (32, 4, 1),
        (36, 2, 1),
        (40, 2, 8),
        (56, 4, 3),
        (68, 2, 4),
        (76, 4, 11),
        (120, 2, 1),
        (124, 4, 6),
        (252, 2, 2),
        (256, 4, 18),
    ],
};

/// NIfTI-2: 540 bytes, 64-bit sizes, double precision.
pub(crate) const VERSION_2: Layout = Layout {
    size: 540,
    magic_at: 4,
    magic_single: b"n+2\0\r\n\x1a\n",
    magic_pair: b"ni2\0\r\n\x1a\n",
    datatype: field(12, 2),
    bitpix: field(14, 2),
    dim: field(16, 8),
    intent_p: field(80, 8),
    pixdim: field(104, 8),
    vox_offset: field(168, 8),
    vox_offset_is_float: false,
    scl_slope: field(176, 8),
    scl_inter: field(184, 8),
    cal_max: field(192, 8),
    cal_min: field(200, 8),
    descrip_at: 240,
    aux_file_at: 320,
    qform_code: field(344, 4),
    sform_code: field(348, 4),
    quatern: field(352, 8),
    srow: field(400, 8),
    xyzt_units: field(500, 4),
    intent_code: field(504, 4),
    intent_name_at: 508,
    numbers: &[(0, 4, 1), (12, 2, 2), (16, 8, 28), (344, 4, 2), (352, 8, 18), (496, 4, 3)],
};

impl Layout {
    /// Turns all numbers of a header round, from one byte order to the other. Bit patterns (NaN payloads too) survive.
    pub fn swap_bytes(&self, header: &mut [u8]) {
        for &(at, width, count) in self.numbers {
            for number in header[at..at + width * count].chunks_exact_mut(width) {
                number.reverse();
            }
        }
    }
}

/// Integer `index` of a run of little-endian fields.
pub(crate) fn int(header: &[u8], field: Field, index: usize) -> i64 {
    let at = field.at + index * field.width;
    let bytes = &header[at..at + field.width];
    let negative = field.width > 1 && bytes[field.width - 1] & 0x80 != 0;
    let mut wide = [if negative { 0xff } else { 0 }; 8];
    wide[..field.width].copy_from_slice(bytes);
    i64::from_le_bytes(wide)
}

/// Float `index` of a run of little-endian fields.
pub(crate) fn float(header: &[u8], field: Field, index: usize) -> f64 {
    let at = field.at + index * field.width;
    if field.width == 4 {
        let mut bytes = [0; 4];
        bytes.copy_from_slice(&header[at..at + 4]);
        f64::from(f32::from_le_bytes(bytes))
    } else {
        let mut bytes = [0; 8];
        bytes.copy_from_slice(&header[at..at + 8]);
        f64::from_le_bytes(bytes)
    }
}

/// Sets integer `index` of a run; the value must fit (callers check sizes against the field's width).
pub(crate) fn set_int(header: &mut [u8], field: Field, index: usize, value: i64) {
    let at = field.at + index * field.width;
    header[at..at + field.width].copy_from_slice(&value.to_le_bytes()[..field.width]);
}

/// Sets float `index` of a run, rounded to the field's width.
pub(crate) fn set_float(header: &mut [u8], field: Field, index: usize, value: f64) {
    let at = field.at + index * field.width;
    if field.width == 4 {
        header[at..at + 4].copy_from_slice(&(value as f32).to_le_bytes());
    } else {
        header[at..at + 8].copy_from_slice(&value.to_le_bytes());
    }
}
