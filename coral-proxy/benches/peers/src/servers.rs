//! The caches: their configurations, and how they are started.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use coral_rig::process::Server as Process;

use crate::load::{Over, confined};
use crate::origin::{Origin, object};

/// Those that can be compared. Ours is the first, and each round begins with it.
pub(crate) const NAMES: [&str; 5] = ["coral", "haproxy", "nginx", "trafficserver", "varnish"];

/// The host that is asked for.
pub(crate) const HOST: &str = "bench.test";

/// How long a server may take to answer its first request.
const STARTING: Duration = Duration::from_secs(20);

/// A cache that has been started.
#[derive(Debug)]
pub(crate) struct Server {
    pub(crate) name: &'static str,
    pub(crate) address: SocketAddr,
    /// Where it speaks TLS.
    pub(crate) secure: SocketAddr,
    pub(crate) process: Process,
    log: PathBuf,
}

/// Which servers are wanted, and how.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Wanted<'a> {
    /// These alone, unless empty.
    pub(crate) only: &'a [String],
    pub(crate) over: Over,
    /// Our node.
    pub(crate) coral: &'a Path,
    /// The processor to which they are confined, if they are.
    pub(crate) processor: Option<usize>,
}

/// Starts those of [`NAMES`] that are wanted and installed, with all their files in `folder`.
pub(crate) fn start(wanted: Wanted<'_>, folder: &Path, origin: SocketAddr) -> anyhow::Result<Vec<Server>> {
    let Wanted { only, over, coral, processor } = wanted;
    // Those that give up their privileges have to find their files, too.
    open_to_all(folder)?;
    certificate(folder)?;
    let mut servers = Vec::new();
    for name in NAMES {
        if !only.is_empty() && !only.iter().any(|wanted| wanted == name) || over != Over::Http && name == "varnish" {
            continue;
        }
        let folder = folder.join(name);
        fs::create_dir(&folder)?;
        open_to_all(&folder)?;
        let ports = [free_port()?, free_port()?];
        let Some((program, arguments)) = prepare(name, coral, &folder, ports, origin)? else {
            eprintln!("{name} is not installed, and left out");
            continue;
        };
        let (program, arguments) = confined(processor, program, arguments);
        let log = folder.join("log");
        let process = Process::start(&program, &arguments, &log).with_context(|| format!("cannot start {name}"))?;
        let [address, secure] = ports.map(|port| (Ipv4Addr::LOCALHOST, port).into());
        servers.push(Server { name, address, secure, process, log });
    }
    Ok(servers)
}

impl Server {
    /// Has it fetch the objects, and checks that it has them then.
    pub(crate) fn warm(&self, sizes: &[usize], origin: &Origin) -> anyhow::Result<()> {
        let begun = Instant::now();
        while TcpStream::connect(self.address).is_err() {
            ensure!(begun.elapsed() < STARTING, "{} does not answer", self.name);
            std::thread::sleep(Duration::from_millis(20));
        }
        for &size in sizes {
            let expected = object(size);
            // Varnish and Traffic Server answer before they are ready, and a cache may store an object after it was sent.
            loop {
                let body = self.get(size);
                if body.as_ref().is_ok_and(|body| *body == expected) {
                    let asked = origin.asked();
                    if self.get(size)? == expected && origin.asked() == asked {
                        break;
                    }
                }
                if begun.elapsed() > STARTING {
                    let length = body?.len();
                    anyhow::bail!("{} does not keep an object of {size} bytes; it gave {length}", self.name);
                }
                std::thread::sleep(Duration::from_millis(20));
            }
        }
        Ok(())
    }

    fn get(&self, size: usize) -> anyhow::Result<Vec<u8>> {
        let mut stream = TcpStream::connect(self.address)?;
        write!(stream, "GET /{size} HTTP/1.1\r\nHost: {HOST}\r\nConnection: close\r\n\r\n")?;
        let mut response = Vec::new();
        stream.read_to_end(&mut response)?;
        let end = response.windows(4).position(|part| part == b"\r\n\r\n").context("no end of the head")?;
        ensure!(response.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&response[..end]));
        Ok(response.split_off(end + 4))
    }

    /// The end of its log.
    pub(crate) fn last_words(&self) -> String {
        let log = fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        format!("the last words of {}:\n{}", self.name, lines[lines.len().saturating_sub(12)..].join("\n"))
    }
}

fn open_to_all(folder: &Path) -> anyhow::Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    Ok(fs::set_permissions(folder, fs::Permissions::from_mode(0o777))?)
}

fn free_port() -> anyhow::Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

/// One for all, of the kind that most sites have now: P-256.
fn certificate(folder: &Path) -> anyhow::Result<()> {
    let key = rcgen::KeyPair::generate()?;
    let certificate = rcgen::CertificateParams::new([HOST.to_owned()])?.self_signed(&key)?;
    let (chain, key) = (certificate.pem(), key.serialize_pem());
    for (name, text) in [("chain.pem", &chain), ("key.pem", &key), ("both.pem", &format!("{chain}{key}"))] {
        fs::write(folder.join(name), text)?;
    }
    Ok(())
}

/// Writes a server's files, which listens at one port for HTTP and at one for TLS. Its program and arguments, unless it is not installed.
fn prepare(
    name: &str,
    coral: &Path,
    folder: &Path,
    [port, secure]: [u16; 2],
    origin: SocketAddr,
) -> anyhow::Result<Option<(PathBuf, Vec<String>)>> {
    let dir = folder.to_str().context("a path that is no text")?;
    let file = |name: &str, text: String| fs::write(folder.join(name), text);
    let (program, arguments) = match name {
        "coral" => {
            let coral = coral.canonicalize().with_context(|| {
                format!("there is no node at {}: `cargo build --release` makes one", coral.display())
            })?;
            file("coral.toml", coral_toml(dir, [port, secure], origin))?;
            return Ok(Some((coral, vec!["node".to_owned(), "--config".to_owned(), format!("{dir}/coral.toml")])));
        }
        "haproxy" => {
            file("config", haproxy(dir, [port, secure], origin))?;
            ("haproxy", vec!["-db".to_owned(), "-f".to_owned(), format!("{dir}/config")])
        }
        "nginx" => {
            file("config", nginx(dir, [port, secure], origin))?;
            ("nginx", vec!["-c".to_owned(), format!("{dir}/config")])
        }
        "trafficserver" => {
            for part in ["cache", "logs", "run"] {
                fs::create_dir(folder.join(part))?;
                open_to_all(&folder.join(part))?;
            }
            file("records.config", records_config(dir, [port, secure]))?;
            file("remap.config", format!("map / http://{origin}/\n"))?;
            let line = format!("dest_ip=* ssl_cert_name={dir}/../chain.pem ssl_key_name={dir}/../key.pem\n");
            file("ssl_multicert.config", line)?;
            file("storage.config", format!("{dir}/cache 256M\n"))?;
            file("ip_allow.yaml", "ip_allow:\n- {apply: in, ip_addrs: 0/0, action: allow, methods: ALL}\n".to_owned())?;
            file("logging.yaml", traffic_log())?;
            file("runroot.yaml", runroot(dir))?;
            ("traffic_server", vec![format!("--run-root={dir}/runroot.yaml")])
        }
        _ => {
            let text = ["-F", "-a", &format!("127.0.0.1:{port}"), "-b", &origin.to_string(), "-s", "malloc,256m"];
            let more = ["-n", &format!("{dir}/run"), "-T", "none", "-p", "thread_pools=2", "-t", "3600"];
            ("varnishd", text.into_iter().chain(more).map(str::to_owned).collect())
        }
    };
    Ok(coral_rig::find(program).map(|program| (program, arguments)))
}

fn coral_toml(dir: &str, [port, secure]: [u16; 2], origin: SocketAddr) -> String {
    format!(
        "[dsht]\nlisten = \"127.0.0.1:0\"\ntrace = false\n\
         [dns]\nlisten = \"off\"\n\
         [admin]\nlisten = \"off\"\n\
         [proxy]\nlisten = \"127.0.0.1:{port}\"\ntls_listen = \"127.0.0.1:{secure}\"\nmemory = \"256 MiB\"\n\
         sites = [{{ host = \"{HOST}\", origin = \"http://{origin}\" }}]\n\
         certificates = [{{ chain = \"{dir}/../chain.pem\", key = \"{dir}/../key.pem\" }}]\n\
         [proxy.client]\nrequests_per_address = 4000000000\n\
         [proxy.disk]\npath = \"{dir}/cache\"\n"
    )
}

fn haproxy(dir: &str, [port, secure]: [u16; 2], origin: SocketAddr) -> String {
    format!(
        "global\n  nbthread 2\n  maxconn 1000\n  log stdout format raw local0\n\
         defaults\n  mode http\n  log global\n  option httplog\n  timeout client 30s\n  timeout server 30s\n  timeout connect 5s\n\
         cache objects\n  total-max-size 256\n  max-object-size 20000000\n  max-age 3600\n\
         frontend clients\n  bind 127.0.0.1:{port}\n  bind 127.0.0.1:{secure} ssl crt {dir}/../both.pem alpn h2,http/1.1\n  default_backend origin\n\
         backend origin\n  http-request cache-use objects\n  http-response cache-store objects\n  server origin {origin}\n"
    )
}

/// Without `tcp_nopush`, which makes responses of 100 KiB wait 40 ms.
fn nginx(dir: &str, [port, secure]: [u16; 2], origin: SocketAddr) -> String {
    format!(
        "worker_processes 2;\ndaemon off;\npid {dir}/pid;\nerror_log {dir}/error.log;\n\
         events {{ worker_connections 1024; }}\n\
         http {{\n\
           access_log {dir}/access.log;\n  sendfile on;\n  tcp_nopush off;\n  keepalive_requests 1000000000;\n\
           open_file_cache max=1000;\n\
           client_body_temp_path {dir}/t1;\n  proxy_temp_path {dir}/t2;\n  fastcgi_temp_path {dir}/t3;\n\
           uwsgi_temp_path {dir}/t4;\n  scgi_temp_path {dir}/t5;\n\
           proxy_cache_path {dir}/cache keys_zone=objects:10m max_size=1g;\n\
           server {{\n    listen 127.0.0.1:{port};\n    listen 127.0.0.1:{secure} ssl http2;\n    ssl_certificate {dir}/../chain.pem;\n    ssl_certificate_key {dir}/../key.pem;\n    location / {{\n      proxy_pass http://{origin};\n      proxy_cache objects;\n    }}\n  }}\n\
         }}\n"
    )
}

fn records_config(dir: &str, [port, secure]: [u16; 2]) -> String {
    format!(
        "CONFIG proxy.config.admin.user_id STRING trafficserver\n\
         CONFIG proxy.config.http.server_ports STRING {port}:ip-in=127.0.0.1 {secure}:ip-in=127.0.0.1:ssl\n\
         CONFIG proxy.config.exec_thread.autoconfig INT 0\n\
         CONFIG proxy.config.exec_thread.limit INT 2\n\
         CONFIG proxy.config.cache.ram_cache.size INT 256M\n\
         CONFIG proxy.config.cache.ram_cache_cutoff INT 16M\n\
         CONFIG proxy.config.http.keep_alive_no_activity_timeout_in INT 120\n\
         CONFIG proxy.config.log.logging_enabled INT 3\n\
         CONFIG proxy.config.log.logfile_dir STRING {dir}/logs\n\
         CONFIG proxy.config.url_remap.remap_required INT 1\n\
         CONFIG proxy.config.diags.logfile.filename STRING stderr\n"
    )
}

fn traffic_log() -> String {
    "logging:\n  formats:\n  - name: line\n    format: '%<chi> [%<cqtn>] \"%<cqtx>\" %<pssc> %<pscl>'\n  logs:\n  - filename: access\n    \
     format: line\n"
        .to_owned()
}

/// Everything below one directory, but for what the package has.
fn runroot(dir: &str) -> String {
    format!(
        "prefix: /usr\nexec_prefix: /usr\nbindir: /usr/bin\nsbindir: /usr/sbin\nsysconfdir: {dir}\ndatadir: {dir}/cache\n\
         includedir: /usr/include\nlibdir: /usr/lib\nlibexecdir: /usr/lib/trafficserver/modules\nlocalstatedir: {dir}/run\n\
         runtimedir: {dir}/run\nlogdir: {dir}/logs\nmandir: /usr/share/man\ninfodir: /usr/share/info\ncachedir: {dir}/cache\n"
    )
}
