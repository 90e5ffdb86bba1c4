//! What a unit says of itself by function code 43/14, and when it is asked: once after it has come online, and never
//! again while it may be what it chokes on. Never decides whose turn it is.

use std::sync::Arc;

use crate::device::request::{Failure, Identification};

/// Object numbers of the basic identification (Modbus Application Protocol 6.21).
const VENDOR: u8 = 0;
const PRODUCT: u8 = 1;
const REVISION: u8 = 2;
/// Answers of one identification: its three objects may come one by one.
const ANSWERS_MAX: u8 = 3;
/// Characters of a text: no more fit into one answer.
const TEXT_MAX: usize = 245;

/// None where the unit does not say it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Identity {
    pub vendor: Option<Arc<str>>,
    pub product: Option<Arc<str>>,
    pub revision: Option<Arc<str>>,
}

impl Identity {
    fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    fn add(&mut self, number: u8, bytes: &[u8]) {
        let place = match number {
            VENDOR => &mut self.vendor,
            PRODUCT => &mut self.product,
            REVISION => &mut self.revision,
            _ => return,
        };
        *place = text_of(bytes);
    }
}

/// ASCII by the standard. What a page or a log would stumble over is left out.
fn text_of(bytes: &[u8]) -> Option<Arc<str>> {
    let text = String::from_utf8_lossy(bytes);
    let shown: String = text.chars().filter(|char| !char.is_control()).take(TEXT_MAX).collect();
    let shown = shown.trim();
    (!shown.is_empty()).then(|| shown.into())
}

/// How far the question has come.
#[derive(Debug, Default)]
enum Step {
    /// To be asked from this object on.
    Open { object: u8, answers: u8 },
    /// Answered, refused, or not to be asked before it comes online again.
    #[default]
    Done,
    /// It kept silent: what it does next tells whether the question hurt it.
    Suspect,
    /// It went offline over the question.
    Feared,
}

#[derive(Debug, Default)]
pub(crate) struct Inquiry {
    step: Step,
    /// What this inquiry has brought so far.
    found: Identity,
    known: Option<Identity>,
}

impl Inquiry {
    pub(crate) fn known(&self) -> Option<&Identity> {
        self.known.as_ref()
    }

    /// The object that the unit is to be asked for.
    pub(crate) fn next_object(&self) -> Option<u8> {
        match self.step {
            Step::Open { object, .. } => Some(object),
            Step::Done | Step::Suspect | Step::Feared => None,
        }
    }

    /// The unit came online.
    pub(crate) fn handle_online(&mut self) {
        if !matches!(self.step, Step::Feared) {
            self.step = Step::Open { object: VENDOR, answers: 0 };
            self.found = Identity::default();
        }
    }

    /// It answered something else.
    pub(crate) fn handle_alive(&mut self) {
        if matches!(self.step, Step::Suspect) {
            self.step = Step::Done;
        }
    }

    pub(crate) fn handle_offline(&mut self) {
        self.step = match self.step {
            Step::Suspect | Step::Feared => Step::Feared,
            Step::Open { .. } | Step::Done => Step::Done,
        };
    }

    /// True: something else is known now.
    pub(crate) fn handle_answer(&mut self, answer: &Identification) -> bool {
        let Step::Open { object, answers } = self.step else { return false };
        for (number, bytes) in &answer.objects {
            self.found.add(*number, bytes);
        }
        let next = answer.next.filter(|next| *next > object && *next <= REVISION);
        match next.filter(|_| answers + 1 < ANSWERS_MAX) {
            Some(object) => {
                self.step = Step::Open { object, answers: answers + 1 };
                false
            }
            None => self.conclude(),
        }
    }

    /// It does not know the question, or not all of it.
    pub(crate) fn handle_refused(&mut self) -> bool {
        self.conclude()
    }

    /// Nothing came back, or nothing left. It is not asked a second time.
    pub(crate) fn handle_failure(&mut self, failure: &Failure) {
        let was_asked = !matches!(failure, Failure::Line(error) if error.is_permanent());
        self.step = if was_asked { Step::Suspect } else { Step::Done };
    }

    fn conclude(&mut self) -> bool {
        self.step = Step::Done;
        let found = Some(std::mem::take(&mut self.found)).filter(|found| !found.is_empty());
        let is_news = found != self.known;
        self.known = found;
        is_news
    }
}

#[cfg(test)]
mod tests {
    use super::{Identity, Inquiry};
    use crate::device::request::{Failure, Identification, LineError};

    fn answer(objects: &[(u8, &str)], next: Option<u8>) -> Identification {
        let objects = objects.iter().map(|(number, text)| (*number, text.as_bytes().to_vec()));
        Identification { objects: objects.collect(), next }
    }

    fn identity(vendor: &str, product: &str, revision: &str) -> Identity {
        let text = |text: &str| (!text.is_empty()).then(|| text.into());
        Identity { vendor: text(vendor), product: text(product), revision: text(revision) }
    }

    #[test]
    fn objects_come_together_or_one_by_one() {
        let mut inquiry = Inquiry::default();
        assert_eq!(inquiry.next_object(), None);
        inquiry.handle_online();
        assert_eq!(inquiry.next_object(), Some(0));
        assert!(inquiry.handle_answer(&answer(&[(0, "Maker"), (1, "M-7\0"), (2, " v1.2 ")], None)));
        assert_eq!(inquiry.known(), Some(&identity("Maker", "M-7", "v1.2")));
        assert_eq!(inquiry.next_object(), None);

        inquiry.handle_online();
        for (object, more) in [(0, Some(1)), (1, Some(2))] {
            assert_eq!(inquiry.next_object(), Some(object));
            assert!(!inquiry.handle_answer(&answer(&[(object, "x")], more)));
        }
        // What it said before is known until the new is whole.
        assert_eq!(inquiry.known(), Some(&identity("Maker", "M-7", "v1.2")));
        assert!(inquiry.handle_answer(&answer(&[(2, "y")], Some(0))));
        assert_eq!(inquiry.known(), Some(&identity("x", "x", "y")));
    }

    #[test]
    fn an_inquiry_ends_whatever_the_unit_says() {
        let mut inquiry = Inquiry::default();
        inquiry.handle_online();
        assert!(!inquiry.handle_answer(&answer(&[(0, "x")], Some(1))));
        // Back to where it was, or far away: nobody goes there.
        assert!(inquiry.handle_answer(&answer(&[(1, "y")], Some(1))));
        inquiry.handle_online();
        assert!(inquiry.handle_answer(&answer(&[], Some(0x80))));
        assert_eq!((inquiry.next_object(), inquiry.known()), (None, None));
        inquiry.handle_online();
        assert!(!inquiry.handle_refused());
        assert_eq!(inquiry.next_object(), None);
    }

    #[test]
    fn a_unit_that_goes_over_the_question_is_never_asked_again() {
        let mut inquiry = Inquiry::default();
        inquiry.handle_online();
        inquiry.handle_failure(&Failure::Line(LineError::Timeout));
        assert_eq!(inquiry.next_object(), None);
        inquiry.handle_alive();
        inquiry.handle_offline();
        inquiry.handle_online();
        assert_eq!(inquiry.next_object(), Some(0), "it went later, for something else");
        inquiry.handle_failure(&Failure::Line(LineError::Timeout));
        inquiry.handle_offline();
        inquiry.handle_online();
        assert_eq!(inquiry.next_object(), None);
    }
}
