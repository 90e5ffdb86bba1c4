//! The serial ports of this machine, with the names that they keep. Looks at /dev and /sys; opens none.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// Names of terminals that are serial ports; those without hardware have no device behind them.
const PREFIXES: [&str; 8] = ["ttyUSB", "ttyACM", "ttyAMA", "ttyS", "ttySC", "ttyMAX", "ttymxc", "ttyXR"];

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SerialPort {
    pub path: PathBuf,
    /// Under /dev/serial/by-id: stays the same whatever is plugged in first.
    pub by_id: Option<PathBuf>,
    pub driver: Option<String>,
}

/// Sorted by path. `dev` and `sys` are /dev and /sys.
pub fn list(dev: &Path, sys: &Path) -> Vec<SerialPort> {
    let by_id = by_id(dev);
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(sys.join("class/tty")).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let driver = fs::read_link(entry.path().join("device/driver")).ok();
        let driver = driver.and_then(|path| Some(path.file_name()?.to_string_lossy().into_owned()));
        // The kernel keeps places for ports of PCs that are not there: no I/O port, no type.
        let kind = fs::read_to_string(entry.path().join("type")).unwrap_or_default();
        let is_serial = PREFIXES.iter().any(|prefix| name.starts_with(prefix));
        if is_serial && driver.is_some() && kind.trim() != "0" {
            let path = dev.join(&name);
            found.insert(path.clone(), SerialPort { by_id: by_id.get(&path).cloned(), path, driver });
        }
    }
    for (path, name) in by_id {
        found.entry(path.clone()).or_insert(SerialPort { path, by_id: Some(name), driver: None });
    }
    found.into_values().collect()
}

/// By what they point to.
fn by_id(dev: &Path) -> BTreeMap<PathBuf, PathBuf> {
    let links = fs::read_dir(dev.join("serial/by-id")).into_iter().flatten().flatten();
    let resolved = links.filter_map(|entry| Some((fs::canonicalize(entry.path()).ok()?, entry.path())));
    resolved.collect()
}

#[cfg(test)]
mod tests {
    use super::list;
    use std::fs;
    use std::os::unix::fs::symlink;

    #[test]
    fn ports_have_stable_names_and_places_without_hardware_are_none() {
        let root = tempfile::tempdir().expect("a folder");
        let root = fs::canonicalize(root.path()).expect("its path");
        let (dev, sys) = (root.join("dev"), root.join("sys"));
        for (name, driver, kind) in [
            ("ttyUSB0", "ftdi_sio", ""),
            ("ttyS0", "serial8250", "0"),
            ("ttyS1", "serial8250", "4"),
            ("tty1", "vt", ""),
        ] {
            let device = sys.join("class/tty").join(name).join("device");
            fs::create_dir_all(&device).expect("a folder");
            symlink(sys.join("drivers").join(driver), device.join("driver")).expect("a link");
            if !kind.is_empty() {
                fs::write(device.with_file_name("type"), kind).expect("a file");
            }
        }
        let by_id = dev.join("serial/by-id");
        fs::create_dir_all(&by_id).expect("a folder");
        for name in ["ttyUSB0", "ttyACM3"] {
            fs::write(dev.join(name), "").expect("a file");
            symlink(format!("../../{name}"), by_id.join(format!("usb-{name}"))).expect("a link");
        }
        let ports = list(&dev, &sys);
        let told: Vec<_> = ports
            .iter()
            .map(|port| (port.path.clone(), port.by_id.clone(), port.driver.as_deref()))
            .collect();
        assert_eq!(
            told,
            [
                (dev.join("ttyACM3"), Some(by_id.join("usb-ttyACM3")), None),
                (dev.join("ttyS1"), None, Some("serial8250")),
                (dev.join("ttyUSB0"), Some(by_id.join("usb-ttyUSB0")), Some("ftdi_sio")),
            ]
        );
        assert_eq!(list(&root.join("none"), &root.join("none")), []);
    }
}
