//! A preprocessed case as training sees it, wherever its arrays lie (usually in a mapped file).

/// Borrowed arrays of one case.
#[derive(Clone, Debug)]
pub struct CaseView<'a> {
    /// Voxels along (a0, a1, a2).
    pub shape: [usize; 3],
    /// Image channels C.
    pub channels: usize,
    /// Normalised intensities, [D, H, W, C].
    pub image: &'a [f32],
    /// Labels, [D, H, W]; -1 outside the nonzero mask.
    pub label: &'a [i16],
    /// How uncertain each label is, from 0 to 1, [D, H, W]; only pseudo-labelled cases have it.
    pub uncertainty: Option<&'a [f32]>,
    /// Stored foreground locations per key, ascending; the key of all annotated voxels, where there is an ignore label, is the tuple that starts with -1.
    pub locations: Vec<(Vec<i16>, &'a [[u32; 3]])>,
}
