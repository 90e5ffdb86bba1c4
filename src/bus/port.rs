//! Serial ports: opened as configured. Never speaks on them.

use std::io;
use std::path::Path;
use std::sync::Arc;

use rustix::fs::{Mode, OFlags};
use serial2::rs4xx::Rs485Config;
use tokio_serial::{SerialPortBuilder, SerialStream};

use crate::config::port::{DataBits, Parity, Port, Rs485, StopBits};
use crate::device::request::LineError;

/// Opens the port. A name that follows its adapter, as in `/dev/serial/by-id`, finds it again under any other.
pub(crate) fn open(port: &Port, path: &Path) -> Result<SerialStream, LineError> {
    let shown: Arc<str> = path.to_string_lossy().into();
    // Until the stream has it: the last file that closes would let the driver forget what it was told.
    let _held =
        port.rs485.map(|rs485| switch(path, rs485)).transpose().map_err(|error| match error.kind() {
            kind @ (io::ErrorKind::NotFound | io::ErrorKind::PermissionDenied) => {
                LineError::Open { path: Arc::clone(&shown), kind }
            }
            _ => LineError::NoRs485 { path: Arc::clone(&shown) },
        })?;
    SerialStream::open(&builder_of(port, &shown))
        .map_err(|error| LineError::Open { path: shown, kind: kind_of(&error) })
}

/// The kernel turns the line's driver around.
fn switch(path: &Path, rs485: Rs485) -> io::Result<serial2::SerialPort> {
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = rustix::fs::open(path, flags, Mode::empty())?;
    let mut mode = Rs485Config::new();
    mode.set_invert_rts(!rs485.rts_on_send);
    mode.set_delay_before_send(rs485.delay_before_send);
    mode.set_delay_after_send(rs485.delay_after_send);
    let port = serial2::SerialPort::from(file);
    port.set_rs4xx_mode(mode)?;
    Ok(port)
}

/// The port as configured; `simulate` opens its end with the same.
pub(crate) fn builder_of(port: &Port, path: &str) -> SerialPortBuilder {
    tokio_serial::new(path, port.baud_rate)
        .data_bits(match port.data_bits {
            DataBits::Seven => tokio_serial::DataBits::Seven,
            DataBits::Eight => tokio_serial::DataBits::Eight,
        })
        .parity(match port.parity {
            Parity::None => tokio_serial::Parity::None,
            Parity::Even => tokio_serial::Parity::Even,
            Parity::Odd => tokio_serial::Parity::Odd,
        })
        .stop_bits(match port.stop_bits {
            StopBits::One => tokio_serial::StopBits::One,
            StopBits::Two => tokio_serial::StopBits::Two,
        })
        .flow_control(tokio_serial::FlowControl::None)
}

pub(crate) fn kind_of(error: &tokio_serial::Error) -> io::ErrorKind {
    match error.kind() {
        // serialport says so of a port that another program holds.
        tokio_serial::ErrorKind::NoDevice => io::ErrorKind::ResourceBusy,
        tokio_serial::ErrorKind::InvalidInput => io::ErrorKind::InvalidInput,
        tokio_serial::ErrorKind::Unknown => io::ErrorKind::Other,
        tokio_serial::ErrorKind::Io(kind) => kind,
    }
}
