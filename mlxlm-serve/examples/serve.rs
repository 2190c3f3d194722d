//! A server in a few lines: `cargo run -p mlxlm-serve --example serve -- demo 8080`, and then
//! `curl localhost:8080/v1/chat/completions -d '{"messages": [{"role": "user", "content": "Tell me a story."}]}'`.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a program for whoever runs it")]

use std::sync::Arc;

use mlxlm_core::device;
use mlxlm_models::{LoadOptions, demo, load};
use mlxlm_serve::{Loader, Log, Models, Server, ServerOptions};

fn main() {
    let mut args = std::env::args().skip(1);
    let name = args.next().unwrap_or_else(|| "demo".to_owned());
    let port = args.next().and_then(|port| port.parse().ok()).unwrap_or(8080);
    let code = match serve(name, port) {
        Ok(()) => 0,
        Err(error) => {
            eprintln!("error: {error}");
            1
        }
    };
    // The way out of a process that computes.
    device::exit(code)
}

fn serve(name: String, port: u16) -> mlxlm_serve::Result<()> {
    let options = ServerOptions {
        port,
        names: vec![name.clone()],
        log: Log::new(|line| eprintln!("{:?} {:?}", line.level, line.text)),
        ..ServerOptions::default()
    };
    let loader: Loader = Arc::new(move || {
        // Here, on the engine's thread, every array is made.
        let folder = demo::folder(&name).map_err(|error| error.to_string())?;
        let folder = folder.unwrap_or_else(|| name.clone().into());
        let main = load(folder, &LoadOptions::default()).map_err(|error| error.to_string())?;
        Ok(Models { main, draft: None })
    });
    let server = Server::bind(options)?;
    for address in server.addresses() {
        println!("listening on http://{address}");
    }
    server.run(loader)
}
