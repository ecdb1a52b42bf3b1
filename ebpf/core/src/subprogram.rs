use crate::{Action, Verdict};
use skein_abi::{Addr, flow::Tuple};

/// What a [`subprogram`] hands back, in a form in which every byte is defined: of an empty `Option`
/// the compiler copies whatever is in its registers, which the verifier refuses.
pub trait Outcome: Sized {
    /// The form without undefined bytes.
    type Flat: Copy;
    /// Of nothing.
    const NONE: Self::Flat;
    /// To that form.
    fn flatten(self) -> Self::Flat;
    /// And back.
    fn raise(flat: Self::Flat) -> Self;
}

impl Outcome for Verdict {
    type Flat = Self;
    const NONE: Self = Self::unknown();
    #[inline(always)]
    fn flatten(self) -> Self {
        self
    }
    #[inline(always)]
    fn raise(flat: Self) -> Self {
        flat
    }
}

impl Outcome for Option<Verdict> {
    type Flat = Verdict;
    const NONE: Verdict = Verdict::unknown();
    #[inline(always)]
    fn flatten(self) -> Verdict {
        self.unwrap_or(Self::NONE)
    }
    #[inline(always)]
    fn raise(flat: Verdict) -> Self {
        (flat.action != Action::Unknown).then_some(flat)
    }
}

/// Protocol 0 is never translated.
impl Outcome for Option<Tuple> {
    type Flat = Tuple;
    const NONE: Tuple = Tuple {
        src: 0,
        dst: 0,
        sport: 0,
        dport: 0,
        proto: 0,
        pad: [0; 3],
    };
    #[inline(always)]
    fn flatten(self) -> Tuple {
        self.unwrap_or(Self::NONE)
    }
    #[inline(always)]
    fn raise(flat: Tuple) -> Self {
        (flat.proto != 0).then_some(flat)
    }
}

impl Outcome for (Tuple, Addr) {
    type Flat = Self;
    const NONE: Self = (Option::<Tuple>::NONE, 0);
    #[inline(always)]
    fn flatten(self) -> Self {
        self
    }
    #[inline(always)]
    fn raise(flat: Self) -> Self {
        flat
    }
}

/// Defines a function that stays a function of its own in the kernel.
///
/// Programs are otherwise one function each, inlined throughout, whose stack would be far above the
/// 512 bytes that the kernel allows. A kernel function takes at most five arguments, returns one
/// register, and must not leave anything else in it: so the result goes through a reference, and
/// what is returned is a number that the optimiser can neither foresee nor find unused.
macro_rules! subprogram {
    ($(
        $(#[$meta:meta])*
        $vis:vis fn $name:ident($t:ident $(, $arg:ident: $type:ty)*) -> $result:ty $body:block
    )*) => {$(
        $(#[$meta])*
        #[inline(always)]
        $vis fn $name<T: $crate::Tables>($t: &T $(, $arg: $type)*) -> $result {
            #[inline(always)]
            fn decide<T: $crate::Tables>($t: &T $(, $arg: $type)*) -> $result $body

            #[inline(never)]
            fn subprogram<T: $crate::Tables>(
                $t: &T
                $(, $arg: $type)*,
                result: &mut <$result as $crate::subprogram::Outcome>::Flat,
            ) -> u32 {
                *result = $crate::subprogram::Outcome::flatten(decide($t $(, $arg)*));
                core::hint::black_box(0)
            }

            let mut result = <$result as $crate::subprogram::Outcome>::NONE;
            core::hint::black_box(subprogram($t $(, $arg)*, &mut result));
            <$result as $crate::subprogram::Outcome>::raise(result)
        }
    )*};
}
pub(crate) use subprogram;
