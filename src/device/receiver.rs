//! What an inbox has to know of its device, whatever its line: which commands may be done, and how they are refused.

use std::sync::Arc;

use crate::base::time::Now;
use crate::config::instrument::Instrument;
use crate::config::model::Device;
use crate::device::command::CommandError;
use crate::device::serial::task;
use crate::device::topics::{self, Topics};
use crate::device::write::{self, Refusal};
use crate::mqtt::message::Message;

#[derive(Debug)]
pub enum Receiver {
    Modbus(Arc<Device>),
    Instrument(Box<Instrument>),
}

impl From<Arc<Device>> for Receiver {
    fn from(device: Arc<Device>) -> Self {
        Self::Modbus(device)
    }
}

impl From<Instrument> for Receiver {
    fn from(instrument: Instrument) -> Self {
        Self::Instrument(Box::new(instrument))
    }
}

impl Receiver {
    pub fn name(&self) -> &Arc<str> {
        match self {
            Self::Modbus(device) => &device.name,
            Self::Instrument(instrument) => &instrument.name,
        }
    }

    pub(crate) fn topics(&self, gateway: &str) -> Topics {
        match self {
            Self::Modbus(device) => Topics::new(gateway, device),
            Self::Instrument(instrument) => Topics::of_instrument(gateway, instrument),
        }
    }

    /// The point of this name, in the order of the topics.
    pub(crate) fn point_of(&self, name: &str) -> Option<usize> {
        match self {
            Self::Modbus(device) => {
                let computed = device.computed.iter().map(|point| &point.name);
                device
                    .points
                    .iter()
                    .map(|point| &point.name)
                    .chain(computed)
                    .position(|known| **known == *name)
            }
            Self::Instrument(instrument) => {
                let computed = instrument.computed.iter().map(|point| &point.name);
                let points = instrument.points.iter().map(|point| &point.name);
                points.chain(computed).position(|known| **known == *name)
            }
        }
    }

    /// Whether a command may be done.
    pub(crate) fn check(&self, topics: &Topics, message: &Message, now: Now) -> Result<(), Refusal> {
        match self {
            Self::Modbus(device) => write::wanted(device, topics, message, now).map(|_| ()),
            Self::Instrument(instrument) => task::wanted(instrument, topics, message, now).map(|_| ()),
        }
    }

    /// The answer to a command that is not done.
    pub(crate) fn refusal(
        &self,
        topics: &Topics,
        point: Option<usize>,
        (message, error): (&Message, &CommandError),
        now: Now,
    ) -> Option<Message> {
        let name = |at: usize| match self {
            Self::Modbus(device) => write::name_of(device, at),
            Self::Instrument(instrument) => {
                let computed = instrument.computed.iter().map(|point| &*point.name);
                instrument.points.iter().map(|point| &*point.name).chain(computed).nth(at)
            }
        };
        let known = point.and_then(|at| Some((name(at)?, topics.points.get(at)?)));
        topics::answer(known, message, Err(error), now)
    }
}
