//! Functions that the kernel keeps apart.

/// Defines a function that stays a function of its own in the kernel.
///
/// Programs are otherwise one function each, inlined throughout, whose stack would be far above the
/// 512 bytes that the kernel allows for a whole chain of calls. A kernel function takes at most five
/// arguments and returns one register, in which the verifier accepts nothing undefined: so results
/// go through [`crate::Work`], and what is returned is a flag that the optimiser can neither foresee
/// nor find unused.
macro_rules! subprogram {
    ($(
        $(#[$meta:meta])*
        $vis:vis fn $name:ident($t:ident, $w:ident $(, $arg:ident: $type:ty)*) -> bool $body:block
    )*) => {$(
        $(#[$meta])*
        #[inline(always)]
        $vis fn $name<T: $crate::Tables>($t: &T, $w: &mut $crate::Work $(, $arg: $type)*) -> bool {
            #[inline(always)]
            fn decide<T: $crate::Tables>($t: &T, $w: &mut $crate::Work $(, $arg: $type)*) -> bool $body

            #[inline(never)]
            fn subprogram<T: $crate::Tables>($t: &T, $w: &mut $crate::Work $(, $arg: $type)*) -> u32 {
                core::hint::black_box(decide($t, $w $(, $arg)*) as u32)
            }

            core::hint::black_box(subprogram($t, $w $(, $arg)*)) != 0
        }
    )*};
}
pub(crate) use subprogram;
