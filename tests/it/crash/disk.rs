//! A file system in a file, which can lose its power and fill up. Needs root, loop devices and the tools of the file system.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use crate::support::client::eventually;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Ext4,
    Xfs,
}

/// Mounted until dropped.
pub struct Disk {
    // Unmounted before the folder is removed, by `drop`.
    home: tempfile::TempDir,
    mounted: bool,
}

impl Disk {
    /// Says why not, where there can be none.
    pub fn make(kind: Kind, megabytes: u64) -> Result<Disk, String> {
        if !rustix::process::geteuid().is_root() {
            return Err("needs root to mount a file system".into());
        }
        let home = tempfile::tempdir().map_err(|e| e.to_string())?;
        let image = home.path().join("image");
        File::create(&image).and_then(|file| file.set_len(megabytes << 20)).map_err(|e| e.to_string())?;
        std::fs::create_dir(home.path().join("mnt")).map_err(|e| e.to_string())?;
        let image = image.display().to_string();
        match kind {
            // Without blocks kept for root: it would not meet a full disk.
            Kind::Ext4 => run("mkfs.ext4", &["-q", "-F", "-m", "0", &image])?,
            Kind::Xfs => run("mkfs.xfs", &["-q", "-f", &image])?,
        }
        let mut disk = Disk { home, mounted: false };
        disk.mount()?;
        Ok(disk)
    }

    pub fn folder(&self) -> PathBuf {
        self.home.path().join("mnt")
    }

    /// Whether this machine can cut a power that only this disk has.
    pub fn can_lose_power() -> Result<(), String> {
        Command::new("xfs_io").arg("-V").output().map(drop).map_err(|e| format!("xfs_io (package xfsprogs): {e}"))
    }

    /// A hand at the switch.
    pub fn switch(&self) -> Switch {
        let switch = Command::new("xfs_io").arg("-x").arg(self.folder()).stdin(Stdio::piped()).stdout(Stdio::null()).spawn();
        Switch(switch.unwrap())
    }

    /// One in memory: when it is full not even a file that is there can be written anew. It cannot be remounted.
    pub fn in_memory(megabytes: u64) -> Result<Disk, String> {
        if !rustix::process::geteuid().is_root() {
            return Err("needs root to mount a file system".into());
        }
        let home = tempfile::tempdir().map_err(|e| e.to_string())?;
        let mut disk = Disk { home, mounted: false };
        std::fs::create_dir(disk.folder()).map_err(|e| e.to_string())?;
        run("mount", &["-t", "tmpfs", "-o", &format!("size={megabytes}m"), "tmpfs", &text(&disk.folder())])?;
        disk.mounted = true;
        Ok(disk)
    }

    /// After the power came back: everything that was in memory only is gone. Nobody may use the disk any more.
    pub fn remount(&mut self) {
        self.unmount();
        self.mount().unwrap();
    }

    fn mount(&mut self) -> Result<(), String> {
        run("mount", &["-o", "loop", &text(&self.home.path().join("image")), &text(&self.folder())])?;
        self.mounted = true;
        Ok(())
    }

    fn unmount(&mut self) {
        // The kernel closes a killed process's files a moment after its parent was told of its end.
        eventually("the end of the mount", || run("umount", &[&text(&self.folder())]).ok());
        self.mounted = false;
    }
}

/// Started beforehand, so that no time passes between the decision and the cut.
pub struct Switch(Child);

impl Switch {
    /// From now on nothing reaches the disk, not even what its journal of its own still holds (`NOLOGFLUSH`).
    pub fn cut_power(mut self) {
        self.0.stdin.take().unwrap().write_all(b"shutdown\nquit\n").unwrap();
        assert!(self.0.wait().unwrap().success());
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        if self.mounted && !std::thread::panicking() {
            self.unmount();
        } else if self.mounted {
            // In a test that fails already, only tidy up.
            let _ = run("umount", &["-l", &text(&self.folder())]);
        }
    }
}

fn text(path: &Path) -> String {
    path.display().to_string()
}

fn run(program: &str, arguments: &[&str]) -> Result<(), String> {
    let output = Command::new(program).args(arguments).output().map_err(|e| format!("{program}: {e}"))?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!("{program} {}: {}", arguments.join(" "), String::from_utf8_lossy(&output.stderr).trim()))
}
