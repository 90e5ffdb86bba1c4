//! Values that come over HTTP for the points of devices: given to the door as commands, and their ends told in the words of
//! the web. Decides nothing about them.

use bytes::Bytes;
use serde_json::Value;
use tokio::time::timeout;

use crate::base::time::Duration;
use crate::device::command::Outcome;
use crate::hub::Hub;
use crate::hub::asked::{Answered, NotBegun};
use crate::web::write::{WriteFault, Written};

/// What a device has for it, with all tries and the reading back.
const WRITE_TIME_MAX: Duration = Duration::from_secs(10);
/// For what is under way then to come to its end.
const ANSWER_SLACK: Duration = Duration::from_secs(2);

pub fn write(hub: &Hub, device: &str, point: &str, command: Bytes) -> Written {
    let begun = hub.command(device, point, command, WRITE_TIME_MAX);
    let named = (device.to_owned(), point.to_owned());
    Box::pin(async move {
        let receiver = begun.map_err(|refusal| fault_of(&refusal))?;
        let result = match timeout(WRITE_TIME_MAX + ANSWER_SLACK, receiver).await {
            Ok(Ok(answered)) => told(&answered),
            Ok(Err(_)) => Err(WriteFault::Busy("the gateway stops".to_owned())),
            Err(_) => {
                let waited = WRITE_TIME_MAX.as_secs();
                Err(WriteFault::Silent(format!(
                    "{}: no answer within {waited} s; it may have been written",
                    named.1
                )))
            }
        };
        let (device, point) = named;
        tracing::info!(device, point, ok = result.is_ok(), "a value was written over HTTP");
        result
    })
}

fn fault_of(refusal: &NotBegun) -> WriteFault {
    match refusal {
        NotBegun::NoDevice => WriteFault::NoDevice,
        NotBegun::NoPoint => WriteFault::NoPoint,
        NotBegun::NotWritable => WriteFault::NotWritable,
        NotBegun::Refused { .. } => WriteFault::Refused(refusal.to_string()),
        NotBegun::TooManyWait => WriteFault::Busy(refusal.to_string()),
    }
}

fn told(answered: &Answered) -> Result<Value, WriteFault> {
    let answer: Value = serde_json::from_slice(&answered.payload).unwrap_or_default();
    let error = || answer["error"].as_str().unwrap_or("not written").to_owned();
    match answered.outcome {
        Outcome::Done => Ok(answer),
        Outcome::Refused => Err(WriteFault::Failed(error())),
        Outcome::Silent => Err(WriteFault::Silent(error())),
        Outcome::NotTaken => Err(WriteFault::Busy(error())),
    }
}
