//! The tasks that serve no client, device or cloud by themselves: timers, logins, the disk, signs of life. Starts them, and
//! knows nothing of what they do.

use std::sync::Arc;

use crate::app::flash::Flash;
use crate::app::supervise::Supervisor;
use crate::app::watchdog::Vitals;
use crate::app::{disk, losses};
use crate::config::model::Config;
use crate::hub::login::{self, Logins};
use crate::hub::{Hub, timer};
use crate::observe::limit;
use crate::store::writer::Writer;

/// All but the clock, which the start has set up.
pub fn start(
    (config, hub): (&Arc<Config>, &Arc<Hub>),
    (writer, logins): (&Arc<Writer>, &Arc<Logins>),
    (vitals, flash): (&Arc<Vitals>, &Arc<Flash>),
    core: &mut Supervisor,
) {
    let answering = vitals.clone();
    core.spawn("vitals".to_owned(), move |cancel| answering.clone().answer(cancel));
    let timed = hub.clone();
    core.spawn("timer".to_owned(), move |cancel| timer::run(timed.clone(), cancel));
    let (asking, asked) = (hub.clone(), logins.clone());
    core.spawn("logins".to_owned(), move |cancel| login::run(asking.clone(), asked.clone(), cancel));
    let watched = (hub.clone(), writer.clone(), config.gateway.data_dir.clone());
    core.spawn("disk".to_owned(), move |cancel| {
        let (hub, writer, data_dir) = watched.clone();
        disk::run(hub, writer, data_dir, cancel)
    });
    let spared = (flash.clone(), hub.clone(), writer.clone());
    core.spawn("flash".to_owned(), move |cancel| {
        let (flash, hub, writer) = spared.clone();
        flash.run(hub, writer, cancel)
    });
    core.spawn("log".to_owned(), limit::run);
    let counted = hub.clone();
    core.spawn("losses".to_owned(), move |cancel| losses::run(counted.clone(), cancel));
}
