//! How many of something there may be, for each principal and in all: seats that are given up when they are dropped.
//!
//! Must not know what sits there.

use std::collections::HashMap;
use std::sync::Arc;

use crate::id::Principal;
use crate::sync::Mutex;

/// Seats of a server.
#[derive(Debug)]
pub(crate) struct Seats {
    all_max: usize,
    each_max: usize,
    taken: Mutex<Taken>,
}

#[derive(Debug, Default)]
struct Taken {
    n: usize,
    /// Those that have one, and they alone.
    by_principal: HashMap<Principal, usize>,
}

/// One seat, until it is dropped.
#[derive(Debug)]
pub(crate) struct Seat {
    seats: Arc<Seats>,
    /// `None` for nobody in particular.
    principal: Option<Principal>,
}

/// There is none left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Full {
    /// For anybody; so many there are.
    All(usize),
    /// For this principal; so many it may have.
    Principal(usize),
}

impl Seats {
    pub(crate) fn new(all_max: usize, each_max: usize) -> Arc<Self> {
        Arc::new(Self {
            all_max,
            each_max,
            taken: Mutex::new(Taken::default()),
        })
    }

    /// Takes a seat. Who is nobody in particular shares with everybody else and is bounded only by what there is in all.
    pub(crate) fn take(self: &Arc<Self>, principal: &Principal) -> Result<Seat, Full> {
        let principal = (!principal.is_anonymous()).then(|| principal.clone());
        let mut taken = self.taken.lock();
        if taken.n >= self.all_max {
            return Err(Full::All(self.all_max));
        }
        if let Some(principal) = &principal {
            let n = taken.by_principal.entry(principal.clone()).or_default();
            if *n >= self.each_max {
                return Err(Full::Principal(self.each_max));
            }
            *n += 1;
        }
        taken.n += 1;
        Ok(Seat {
            seats: Arc::clone(self),
            principal,
        })
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut taken = self.seats.taken.lock();
        taken.n -= 1;
        if let Some(principal) = &self.principal
            && let Some(n) = taken.by_principal.get_mut(principal)
        {
            *n -= 1;
            if *n == 0 {
                taken.by_principal.remove(principal);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)] // a failed unwrap is the failed assertion here

    use super::*;

    #[test]
    fn each_has_so_many_and_all_have_so_many() {
        let seats = Seats::new(3, 2);
        let (ann, bob) = (Principal::named("ann".into()), Principal::named("bob".into()));
        let first = seats.take(&ann).unwrap();
        let _second = seats.take(&ann).unwrap();
        assert_eq!(seats.take(&ann).unwrap_err(), Full::Principal(2));
        let _third = seats.take(&bob).unwrap();
        assert_eq!(seats.take(&bob).unwrap_err(), Full::All(3));
        drop(first);
        drop(seats.take(&ann).unwrap());
        assert_eq!(seats.taken.lock().n, 2);
    }

    #[test]
    fn nobody_in_particular_is_bounded_only_in_all_and_nothing_is_kept_of_who_is_gone() {
        let seats = Seats::new(3, 1);
        let taken: Vec<_> = (0..3).map(|_| seats.take(&Principal::anonymous()).unwrap()).collect();
        assert_eq!(seats.take(&Principal::anonymous()).unwrap_err(), Full::All(3));
        drop(taken);
        drop(seats.take(&Principal::named("ann".into())).unwrap());
        let taken = seats.taken.lock();
        assert!(taken.n == 0 && taken.by_principal.is_empty());
    }
}
