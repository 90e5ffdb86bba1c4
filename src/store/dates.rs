//! The differences of wall clock and monotonic clock that boots had once their clocks were set, in the table of marks:
//! what they left undated can be dated by them. Never decides what is set.

use rusqlite::Connection;

use crate::base::boot::Boot;
use crate::store::age::{Anchor, DATED_BOOTS_MAX, Dates};
use crate::store::error::StoreError;

/// What the name of such a mark begins with; behind it stands the boot.
const NAME_PREFIX: &str = "clock:";

/// The latest boots: what each has added to its time since boot is larger than before.
pub(super) fn load_dates(connection: &Connection) -> Result<Dates, StoreError> {
    let sql = "SELECT name, value FROM mark WHERE name GLOB 'clock:*' ORDER BY value DESC LIMIT ?1";
    let mut statement = connection.prepare(sql)?;
    let mut rows = statement.query((DATED_BOOTS_MAX,))?;
    let mut dates = Dates::default();
    for place in &mut dates {
        let Some(row) = rows.next()? else { break };
        let name: String = row.get(0)?;
        let boot = name.strip_prefix(NAME_PREFIX).and_then(|hex| u64::from_str_radix(hex, 16).ok());
        *place = boot.map(|boot| Ok::<_, StoreError>((Boot(boot), row.get(1)?))).transpose()?;
    }
    Ok(dates)
}

/// Keeps this boot's, where its clock is set, in place of the oldest. What is kept already is not written again.
pub(super) fn keep_date(connection: &Connection, anchor: Anchor) -> Result<(), StoreError> {
    let Some((Boot(boot), offset)) = anchor.date() else { return Ok(()) };
    let name = format!("{NAME_PREFIX}{boot:016x}");
    // To the second: a clock that is kept right moves all the time.
    let put = "INSERT INTO mark (name, value) VALUES (?1, ?2)
               ON CONFLICT DO UPDATE SET value = excluded.value WHERE abs(value - excluded.value) > 1000";
    if connection.prepare(put)?.execute((name, offset))? > 0 {
        let trim = "DELETE FROM mark WHERE name GLOB 'clock:*' AND name NOT IN
                    (SELECT name FROM mark WHERE name GLOB 'clock:*' ORDER BY value DESC LIMIT ?1)";
        connection.prepare(trim)?.execute((DATED_BOOTS_MAX,))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use rusqlite::Connection;

    use super::{keep_date, load_dates};
    use crate::base::boot::Boot;
    use crate::base::time::{Doubt, Duration, Instant, Now, Timestamp};
    use crate::store::age::{Anchor, DATED_BOOTS_MAX};

    #[test]
    fn the_latest_boots_are_kept_and_a_clock_that_is_not_set_is_not() {
        let connection = Connection::open_in_memory().unwrap();
        let sql = "CREATE TABLE mark (name TEXT PRIMARY KEY, value INTEGER NOT NULL) STRICT, WITHOUT ROWID;
                   INSERT INTO mark VALUES ('next_spool', 9000000000000), ('clock:nonsense', 1)";
        connection.execute_batch(sql).unwrap();
        let boots = u64::from(DATED_BOOTS_MAX) + 3;
        let day = |boot: u64| Now {
            instant: Instant::BOOT + Duration::from_secs(60),
            wall: Timestamp::from_millis(1_795_255_200_000 + boot.cast_signed() * 86_400_000),
        };
        for boot in 1..=boots {
            keep_date(&connection, Anchor::new(day(boot), Boot(boot))).unwrap();
        }
        let unset = day(99);
        let unset = Now { wall: unset.wall.with_doubt(Doubt::Unset), ..unset };
        keep_date(&connection, Anchor::new(unset, Boot(99))).unwrap();
        // It was set once more; and it was not.
        keep_date(&connection, Anchor::new(day(boots + 1), Boot(boots))).unwrap();
        let nearly = Now { wall: Timestamp::from_millis(day(boots - 1).wall.as_millis() + 900), ..day(0) };
        keep_date(&connection, Anchor::new(nearly, Boot(boots - 1))).unwrap();

        let kept: Vec<_> = load_dates(&connection).unwrap().into_iter().flatten().collect();
        let mut expected = vec![(Boot(boots), day(boots + 1).offset_millis())];
        expected.extend((4..boots).rev().map(|boot| (Boot(boot), day(boot).offset_millis())));
        assert_eq!(kept, expected);
        let marks: u32 = connection.query_row("SELECT count(*) FROM mark", [], |row| row.get(0)).unwrap();
        assert_eq!(marks, 1 + DATED_BOOTS_MAX);
    }
}
