//! A terminal for the binary: what is sent is typed, what is seen is what a screen would get.

use std::fs::File;
use std::io::{Read, Write};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use nix::pty::{Winsize, openpty};

/// How long a test waits for what must come.
const PATIENCE: Duration = Duration::from_mins(1);

/// A program at a terminal.
pub struct Terminal {
    keys: File,
    child: Child,
    screen: Arc<(Mutex<Screen>, Condvar)>,
    /// How much of the screen was looked at.
    looked: usize,
}

#[derive(Default)]
struct Screen {
    bytes: Vec<u8>,
    is_over: bool,
}

impl Terminal {
    /// Runs a command at a terminal of so many columns; what it has set of its streams stays.
    pub fn run(command: &mut Command, columns: u16, stdout: Option<File>) -> Self {
        let size = Winsize { ws_row: 24, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
        let pair = openpty(&size, None).unwrap();
        let slave = File::from(pair.slave);
        let stream = || Stdio::from(slave.try_clone().unwrap());
        let mut session = Command::new("setsid");
        session.args(["--ctty", "--wait"]).arg(command.get_program()).args(command.get_args());
        session.current_dir(command.get_current_dir().unwrap());
        for (name, value) in command.get_envs() {
            match value {
                Some(value) => session.env(name, value),
                None => session.env_remove(name),
            };
        }
        session.env_remove("COLUMNS").env("TERM", "xterm-256color");
        session.stdin(stream()).stderr(stream()).stdout(stdout.map_or_else(stream, Stdio::from));
        let child = session.spawn().unwrap();
        drop(session);
        drop(slave);
        let keys = File::from(pair.master);
        let screen = Arc::new((Mutex::new(Screen::default()), Condvar::new()));
        let (mut output, shared) = (keys.try_clone().unwrap(), Arc::clone(&screen));
        std::thread::spawn(move || {
            let mut piece = [0; 4096];
            // A terminal without a program is an error to read from.
            while let Ok(read @ 1..) = output.read(&mut piece) {
                shared.0.lock().unwrap().bytes.extend(&piece[..read]);
                shared.1.notify_all();
            }
            shared.0.lock().unwrap().is_over = true;
            shared.1.notify_all();
        });
        Self { keys, child, screen, looked: 0 }
    }

    /// Types.
    pub fn send(&mut self, keys: &str) {
        self.keys.write_all(keys.as_bytes()).unwrap();
    }

    /// Waits for a text after what was looked at before; what stands before it.
    #[track_caller]
    pub fn expect(&mut self, text: &str) -> String {
        let begin = Instant::now();
        let (screen, changed) = &*self.screen;
        let mut screen = screen.lock().unwrap();
        loop {
            let shown = &screen.bytes[self.looked..];
            if let Some(place) = shown.windows(text.len()).position(|window| window == text.as_bytes()) {
                let before = String::from_utf8_lossy(&shown[..place]).into_owned();
                self.looked += place + text.len();
                return before;
            }
            let left = PATIENCE.checked_sub(begin.elapsed());
            assert!(left.is_some() && !screen.is_over, "`{text}` did not come:\n{}", String::from_utf8_lossy(shown));
            screen = changed.wait_timeout(screen, left.unwrap()).unwrap().0;
        }
    }

    /// Waits for the program to end: its exit code, and all that was shown after what was looked at.
    pub fn end(mut self) -> (Option<i32>, String) {
        let begin = Instant::now();
        let status = loop {
            match self.child.try_wait().unwrap() {
                Some(status) => break status,
                None if begin.elapsed() < PATIENCE => std::thread::sleep(Duration::from_millis(10)),
                None => {
                    self.child.kill().unwrap();
                    panic!("it does not end: {}", String::from_utf8_lossy(&self.screen.0.lock().unwrap().bytes));
                }
            }
        };
        let mut screen = self.screen.0.lock().unwrap();
        while !screen.is_over && begin.elapsed() < PATIENCE {
            screen = self.screen.1.wait_timeout(screen, Duration::from_millis(100)).unwrap().0;
        }
        (status.code(), String::from_utf8_lossy(&screen.bytes[self.looked..]).into_owned())
    }
}
