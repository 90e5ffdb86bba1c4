//! Through a proxy to a server: HTTP's CONNECT and SOCKS5 (RFC 1928, RFC 1929). Hands the connection on at the first byte
//! of what is inside; never shows a password, never resolves the server's name.

use std::fmt;
use std::io;
use std::net::IpAddr;
use std::sync::Arc;

use base64ct::{Base64, Encoding};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// Of the answer to CONNECT, its headers included.
const HEAD_BYTES_MAX: usize = 16 * 1024;
/// Of a status line that is repeated in a fault.
const SHOWN_BYTES_MAX: usize = 120;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProxyKind {
    Http,
    Socks5,
}

#[derive(Debug, Clone)]
pub struct Proxy {
    pub kind: ProxyKind,
    pub host: Arc<str>,
    pub port: u16,
    pub login: Option<ProxyLogin>,
}

#[derive(Clone)]
pub struct ProxyLogin {
    pub user: Arc<str>,
    pub password: Arc<str>,
}

impl fmt::Debug for ProxyLogin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// Why the proxy made no connection.
#[derive(Debug)]
pub enum ProxyError {
    Io(io::Error),
    /// Its status line, made safe to show.
    Refused(Box<str>),
    NotHttp,
    HeadTooLarge,
    /// It spoke for the server before that was asked anything.
    Early,
    NotSocks,
    /// No way to log in that both know.
    NoMethod,
    BadLogin,
    /// RFC 1928, section 6.
    Reply(u8),
    /// RFC 1928, section 5 and RFC 1929: a length is one byte.
    TooLong,
}

impl From<io::Error> for ProxyError {
    fn from(why: io::Error) -> Self {
        Self::Io(why)
    }
}

impl fmt::Display for ProxyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Io(why) if why.kind() == io::ErrorKind::UnexpectedEof => "closed the connection",
            Self::Io(why) => return why.fmt(f),
            Self::Refused(status) => return write!(f, "refused: {status}"),
            Self::NotHttp => "does not answer as an HTTP proxy",
            Self::HeadTooLarge => {
                return write!(f, "answered with more than {HEAD_BYTES_MAX} bytes of headers");
            }
            Self::Early => "sent bytes before the server could",
            Self::NotSocks => "does not answer as a SOCKS5 proxy",
            Self::NoMethod => "refused: it wants a login, or another one (user:password@ in its URL)",
            Self::BadLogin => "refused: wrong user or password",
            Self::Reply(code) => return write!(f, "refused: {}", reply_words(*code)),
            Self::TooLong => "the name of the server, the user or the password is longer than 255 bytes",
        })
    }
}

fn reply_words(code: u8) -> &'static str {
    match code {
        1 => "general failure",
        2 => "not allowed by its rules",
        3 => "network unreachable",
        4 => "host unreachable",
        5 => "connection refused",
        6 => "the connection took too long",
        7 => "it knows no CONNECT",
        8 => "it knows no such kind of address",
        _ => "unknown reason",
    }
}

/// The proxy's end of the connection becomes the server's.
pub(super) async fn connect_through<S>(
    stream: &mut S,
    proxy: &Proxy,
    host: &str,
    port: u16,
) -> Result<(), ProxyError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    match proxy.kind {
        ProxyKind::Http => connect_http(stream, proxy.login.as_ref(), host, port).await,
        ProxyKind::Socks5 => connect_socks(stream, proxy.login.as_ref(), host, port).await,
    }
}

async fn connect_http<S>(
    stream: &mut S,
    login: Option<&ProxyLogin>,
    host: &str,
    port: u16,
) -> Result<(), ProxyError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let host = if host.contains(':') { format!("[{host}]") } else { host.to_owned() };
    let login = login.map_or_else(String::new, |ProxyLogin { user, password }| {
        let basic = Base64::encode_string(format!("{user}:{password}").as_bytes());
        format!("Proxy-Authorization: Basic {basic}\r\n")
    });
    let request = format!("CONNECT {host}:{port} HTTP/1.1\r\nHost: {host}:{port}\r\n{login}\r\n");
    stream.write_all(request.as_bytes()).await?;
    stream.flush().await?;
    let mut head = Vec::new();
    loop {
        if stream.read_buf(&mut head).await? == 0 {
            return Err(ProxyError::Io(io::ErrorKind::UnexpectedEof.into()));
        }
        if let Some(length) = head_length(&head) {
            judge(&head)?;
            // Whatever speaks inside is asked first: what comes now is the server's of something else.
            return if length == head.len() { Ok(()) } else { Err(ProxyError::Early) };
        }
        if head.len() > HEAD_BYTES_MAX {
            return Err(ProxyError::HeadTooLarge);
        }
    }
}

/// With the empty line that ends it. None: it is not whole.
fn head_length(bytes: &[u8]) -> Option<usize> {
    let end = b"\r\n\r\n";
    bytes.windows(end.len()).position(|window| window == end).map(|at| at + end.len())
}

/// RFC 9110, 9.3.6: any 2xx makes the tunnel.
fn judge(head: &[u8]) -> Result<(), ProxyError> {
    let line = head.split(|byte| *byte == b'\r').next().unwrap_or_default();
    let mut words = line.split(|byte| *byte == b' ');
    let is_http = words.next().is_some_and(|version| version.starts_with(b"HTTP/1."));
    match words.next() {
        Some([b'2', a, b]) if is_http && a.is_ascii_digit() && b.is_ascii_digit() => Ok(()),
        Some([a, b, c]) if is_http && [a, b, c].into_iter().all(u8::is_ascii_digit) => {
            let shown = line.iter().take(SHOWN_BYTES_MAX);
            let shown = shown.map(|b| if b.is_ascii_graphic() || *b == b' ' { char::from(*b) } else { '?' });
            Err(ProxyError::Refused(shown.collect::<String>().into()))
        }
        _ => Err(ProxyError::NotHttp),
    }
}

const SOCKS: u8 = 5;
const NO_LOGIN: u8 = 0;
const USER_AND_PASSWORD: u8 = 2;
const LOGIN_VERSION: u8 = 1;
const CONNECT: u8 = 1;
const IPV4: u8 = 1;
const NAME: u8 = 3;
const IPV6: u8 = 4;

async fn connect_socks<S>(
    stream: &mut S,
    login: Option<&ProxyLogin>,
    host: &str,
    port: u16,
) -> Result<(), ProxyError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let greeting: &[u8] =
        if login.is_some() { &[SOCKS, 2, NO_LOGIN, USER_AND_PASSWORD] } else { &[SOCKS, 1, NO_LOGIN] };
    stream.write_all(greeting).await?;
    stream.flush().await?;
    match (read::<2, _>(stream).await?, login) {
        ([SOCKS, NO_LOGIN], _) => {}
        ([SOCKS, USER_AND_PASSWORD], Some(login)) => log_in(stream, login).await?,
        ([SOCKS, _], _) => return Err(ProxyError::NoMethod),
        _ => return Err(ProxyError::NotSocks),
    }
    let mut request = vec![SOCKS, CONNECT, 0];
    match host.parse() {
        Ok(IpAddr::V4(ip)) => request.extend([&[IPV4], &ip.octets()[..]].concat()),
        Ok(IpAddr::V6(ip)) => request.extend([&[IPV6], &ip.octets()[..]].concat()),
        Err(_) => {
            request.push(NAME);
            push_text(&mut request, host)?;
        }
    }
    request.extend(port.to_be_bytes());
    stream.write_all(&request).await?;
    stream.flush().await?;
    let [version, reply, _, kind] = read(stream).await?;
    if version != SOCKS {
        return Err(ProxyError::NotSocks);
    }
    if reply != 0 {
        return Err(ProxyError::Reply(reply));
    }
    // Where the proxy's own end is: nobody wants to know.
    let length = match kind {
        IPV4 => 4,
        IPV6 => 16,
        NAME => usize::from(read::<1, _>(stream).await?[0]),
        _ => return Err(ProxyError::NotSocks),
    };
    let mut bound = vec![0; length + 2];
    stream.read_exact(&mut bound).await?;
    Ok(())
}

async fn log_in<S>(stream: &mut S, login: &ProxyLogin) -> Result<(), ProxyError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut request = vec![LOGIN_VERSION];
    push_text(&mut request, &login.user)?;
    push_text(&mut request, &login.password)?;
    stream.write_all(&request).await?;
    stream.flush().await?;
    match read(stream).await? {
        [_, 0] => Ok(()),
        [_, _] => Err(ProxyError::BadLogin),
    }
}

fn push_text(bytes: &mut Vec<u8>, text: &str) -> Result<(), ProxyError> {
    bytes.push(u8::try_from(text.len()).map_err(|_| ProxyError::TooLong)?);
    bytes.extend(text.as_bytes());
    Ok(())
}

async fn read<const N: usize, S: AsyncRead + Unpin>(stream: &mut S) -> Result<[u8; N], ProxyError> {
    let mut bytes = [0; N];
    stream.read_exact(&mut bytes).await?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::{HEAD_BYTES_MAX, Proxy, ProxyKind, ProxyLogin, connect_through};
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    const ROOM: usize = 64 * 1024;

    fn proxy(kind: ProxyKind, login: Option<(&str, &str)>) -> Proxy {
        let login = login.map(|(user, password)| ProxyLogin { user: user.into(), password: password.into() });
        Proxy { kind, host: "proxy".into(), port: 1, login }
    }

    /// What the proxy was sent, and how it ended. The answer stands there before it is asked for; then it closes.
    async fn through(proxy: &Proxy, host: &str, answer: &[u8]) -> (Vec<u8>, String) {
        let (mut near, mut far) = duplex(ROOM);
        far.write_all(answer).await.expect("room");
        far.shutdown().await.expect("ends");
        let ended = connect_through(&mut near, proxy, host, 8883).await;
        drop(near);
        let mut asked = Vec::new();
        far.read_to_end(&mut asked).await.expect("reads");
        (asked, ended.map_or_else(|why| why.to_string(), |()| "ok".to_owned()))
    }

    #[tokio::test]
    async fn http_asks_and_judges() {
        let plain = proxy(ProxyKind::Http, None);
        let (asked, ended) = through(&plain, "::1", b"HTTP/1.1 200 Connection established\r\n\r\n").await;
        assert_eq!(asked, b"CONNECT [::1]:8883 HTTP/1.1\r\nHost: [::1]:8883\r\n\r\n");
        assert_eq!(ended, "ok");
        let with_login = proxy(ProxyKind::Http, Some(("Aladdin", "open sesame")));
        let (asked, _) = through(&with_login, "a.example", b"").await;
        let asked = String::from_utf8(asked).expect("text");
        assert!(asked.contains("\r\nProxy-Authorization: Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==\r\n"), "{asked}");
        let long = [b"HTTP/1.1 200 OK\r\nX: ".as_slice(), &[b'x'; HEAD_BYTES_MAX]].concat();
        let cases: [(&[u8], &str); 10] = [
            (b"HTTP/1.0 299 fine\r\nA: b\r\n\r\n", "ok"),
            (
                b"HTTP/1.1 407 Proxy Authentication Required\r\nX: y\r\n\r\nbody",
                "refused: HTTP/1.1 407 Proxy Authentication Required",
            ),
            (b"HTTP/1.1 502 \x1b[31m\xff\r\n\r\n", "refused: HTTP/1.1 502 ?[31m?"),
            (b"HTTP/1.1 200 OK\r\n\r\nhello", "sent bytes before the server could"),
            (b"HTTP/1.1 2000 OK\r\n\r\n", "does not answer as an HTTP proxy"),
            (b"SSH-2.0-x\r\n\r\n", "does not answer as an HTTP proxy"),
            (b"\r\n\r\n", "does not answer as an HTTP proxy"),
            (b"HTTP/1.1 200 OK\r\n", "closed the connection"),
            (b"", "closed the connection"),
            (&long, "answered with more than 16384 bytes of headers"),
        ];
        for (answer, expected) in cases {
            assert_eq!(through(&plain, "a", answer).await.1, expected, "{}", answer.escape_ascii());
        }
    }

    #[tokio::test]
    async fn socks_asks_and_judges() {
        let plain = proxy(ProxyKind::Socks5, None);
        let good: &[u8] = b"\x05\x00\x05\x00\x00\x01\x7f\x00\x00\x01\x00\x50";
        let (asked, ended) = through(&plain, "a.example", good).await;
        assert_eq!(asked, b"\x05\x01\x00\x05\x01\x00\x03\x09a.example\x22\xb3");
        assert_eq!(ended, "ok");
        let (asked, _) = through(&plain, "10.0.0.1", good).await;
        assert_eq!(asked, b"\x05\x01\x00\x05\x01\x00\x01\x0a\x00\x00\x01\x22\xb3");
        let (asked, _) = through(&plain, "::1", good).await;
        assert_eq!(
            asked[3..],
            *b"\x05\x01\x00\x04\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x01\x22\xb3"
        );
        let with_login = proxy(ProxyKind::Socks5, Some(("u", "pw")));
        let (asked, ended) =
            through(&with_login, "a", b"\x05\x02\x01\x00\x05\x00\x00\x03\x01x\x00\x50").await;
        assert_eq!(asked, b"\x05\x02\x00\x02\x01\x01u\x02pw\x05\x01\x00\x03\x01a\x22\xb3");
        assert_eq!(ended, "ok");
        let cases: [(&Proxy, &[u8], &str); 8] = [
            (&plain, b"\x05\xff", "refused: it wants a login, or another one (user:password@ in its URL)"),
            (&plain, b"\x05\x02", "refused: it wants a login, or another one (user:password@ in its URL)"),
            (&with_login, b"\x05\x02\x01\x01", "refused: wrong user or password"),
            (&plain, b"HTTP/1.1 400", "does not answer as a SOCKS5 proxy"),
            (&plain, b"\x05\x00\x05\x05\x00\x01", "refused: connection refused"),
            (&plain, b"\x05\x00\x05\x63\x00\x01", "refused: unknown reason"),
            (&plain, b"\x05\x00\x05\x00\x00\x09", "does not answer as a SOCKS5 proxy"),
            (&plain, b"\x05\x00\x05\x00\x00\x01\x00", "closed the connection"),
        ];
        for (proxy, answer, expected) in cases {
            assert_eq!(through(proxy, "a", answer).await.1, expected, "{}", answer.escape_ascii());
        }
        let (_, ended) = through(&plain, &"a".repeat(256), b"\x05\x00").await;
        assert!(ended.contains("longer than 255"), "{ended}");
    }

    #[test]
    fn a_login_never_shows() {
        assert!(!format!("{:?}", proxy(ProxyKind::Http, Some(("u", "geheim")))).contains("geheim"));
    }
}
