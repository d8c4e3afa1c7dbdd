//! Writing an answer: header, the question as it came, records, EDNS. Names are compressed by what is known of them, not
//! by a search: they all end in a part of the question, or in a name that this writer has written before.

use std::net::IpAddr;

use super::{HEADER_BYTES, types};

/// A message under construction, in a buffer that is kept between messages.
#[derive(Debug)]
pub struct Writer<'b> {
    buffer: &'b mut Vec<u8>,
    /// Where the message begins in the buffer: behind the length, for TCP.
    start: usize,
}

/// A place in a message that names can point at (RFC 1035 §4.1.4).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pointer(u16);

impl Pointer {
    /// The name in the question.
    pub const QUESTION: Self = Self(HEADER_BYTES as u16);

    /// What of the question's name begins at this byte of it.
    pub fn into_question(at: usize) -> Self {
        // A name has 255 bytes at most.
        Self((HEADER_BYTES + at) as u16)
    }
}

/// The sections of a message that hold records, by the place of their count in the header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Section {
    /// What was asked for.
    Answer = 6,
    /// Whose word it is, or whose it would be.
    Authority = 8,
    /// What will be needed next.
    Additional = 10,
}

impl<'b> Writer<'b> {
    /// An answer to the query with this header, which `buffer` gets behind what it has. `question` comes back as it is,
    /// or not at all if it is empty. The flags are those of an answer by somebody without authority.
    pub fn new(buffer: &'b mut Vec<u8>, header: &[u8; 4], question: &[u8]) -> Self {
        let start = buffer.len();
        // QR is set; the operation code and RD are the query's.
        buffer.extend_from_slice(&[header[0], header[1], 0x80 | (header[2] & 0x79), 0]);
        buffer.extend_from_slice(&[0, u8::from(!question.is_empty()), 0, 0, 0, 0, 0, 0]);
        buffer.extend_from_slice(question);
        Self { buffer, start }
    }

    /// Bytes so far.
    pub fn length(&self) -> usize {
        self.buffer.len() - self.start
    }

    /// Sets AA, the answer of somebody with authority.
    pub fn set_authoritative(&mut self) {
        self.buffer[self.start + 2] |= 0x04;
    }

    /// Sets TC: the whole is to be had over TCP.
    pub fn set_truncated(&mut self) {
        self.buffer[self.start + 2] |= 0x02;
    }

    /// Sets the lower four bits of the response code, which is all of it without EDNS.
    pub fn set_rcode(&mut self, low: u8) {
        self.buffer[self.start + 3] |= low & 0x0f;
    }

    /// Where the next byte goes, to point at later. `None` where pointers do not reach (RFC 1035 §4.1.4).
    pub fn here(&self) -> Option<Pointer> {
        u16::try_from(self.length()).ok().filter(|at| *at < 0x4000).map(Pointer)
    }

    /// Counts one more record in `section`.
    pub fn count(&mut self, section: Section) {
        let at = self.start + section as usize;
        let count = u16::from_be_bytes([self.buffer[at], self.buffer[at + 1]]) + 1;
        self.buffer[at..at + 2].copy_from_slice(&count.to_be_bytes());
    }

    /// Bytes as they are.
    pub fn bytes(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// A number of two bytes.
    pub fn u16(&mut self, number: u16) {
        self.bytes(&number.to_be_bytes());
    }

    /// A number of four bytes.
    pub fn u32(&mut self, number: u32) {
        self.bytes(&number.to_be_bytes());
    }

    /// One label; without effect if it is empty or longer than 63, which none of ours is.
    pub fn label(&mut self, label: &[u8]) {
        if let Ok(length @ 1..=63) = u8::try_from(label.len()) {
            self.buffer.push(length);
            self.bytes(label);
        }
    }

    /// The rest of a name, from there on.
    pub fn pointer(&mut self, to: Pointer) {
        self.u16(0xc000 | to.0);
    }

    /// What stands between a record's name and its data, with class IN. The data's length follows, see [`Writer::data`].
    pub fn fixed(&mut self, kind: u16, ttl: u32) {
        self.u16(kind);
        self.u16(super::classes::IN);
        self.u32(ttl);
    }

    /// A record's data, with its length in front.
    pub fn data(&mut self, write: impl FnOnce(&mut Self)) {
        let at = self.buffer.len();
        self.buffer.extend_from_slice(&[0, 0]);
        write(self);
        let length = u16::try_from(self.buffer.len() - at - 2).unwrap_or(u16::MAX);
        self.buffer[at..at + 2].copy_from_slice(&length.to_be_bytes());
    }

    /// Type to data of an A or AAAA record.
    pub fn address(&mut self, ip: IpAddr, ttl: u32) {
        match ip {
            IpAddr::V4(ip) => {
                self.fixed(types::A, ttl);
                self.data(|w| w.bytes(&ip.octets()));
            }
            IpAddr::V6(ip) => {
                self.fixed(types::AAAA, ttl);
                self.data(|w| w.bytes(&ip.octets()));
            }
        }
    }

    /// The OPT record (RFC 6891 §6.1.2), `options` writing what it has. `high` is the upper part of the response code.
    pub fn opt(&mut self, payload: u16, high: u8, flags: u8, options: impl FnOnce(&mut Self)) {
        self.count(Section::Additional);
        self.bytes(&[0]);
        self.u16(types::OPT);
        self.u16(payload);
        self.bytes(&[high, 0, flags, 0]);
        self.data(options);
    }

    /// One option of EDNS.
    pub fn option(&mut self, code: u16, write: impl FnOnce(&mut Self)) {
        self.u16(code);
        self.data(write);
    }

    /// Takes back what came after the question, the flags and counts too.
    pub fn rewind(&mut self, question_bytes: usize) {
        self.buffer.truncate(self.start + HEADER_BYTES + question_bytes);
        self.buffer[self.start + 2] &= 0xf9;
        self.buffer[self.start + 3] = 0;
        self.buffer[self.start + 6..self.start + HEADER_BYTES].fill(0);
    }

    /// The message.
    pub fn message(&self) -> &[u8] {
        &self.buffer[self.start..]
    }
}

#[cfg(test)]
mod tests {
    use expect_test::expect;
    use hickory_server::proto::op::Message;

    use super::*;

    #[test]
    fn a_decoder_reads_what_was_written() {
        let question = b"\x03WWW\x01x\0\0\x01\0\x01";
        let mut buffer = Vec::new();
        let mut writer = Writer::new(&mut buffer, &[0, 7, 1, 0], question);
        writer.set_authoritative();
        writer.count(Section::Answer);
        writer.pointer(Pointer::QUESTION);
        writer.address("192.0.2.1".parse().unwrap(), 30);
        writer.count(Section::Authority);
        writer.pointer(Pointer::into_question(4));
        writer.fixed(types::NS, 60);
        let mut name = None;
        writer.data(|w| {
            name = w.here();
            w.label(b"ns");
            w.pointer(Pointer::into_question(4));
        });
        writer.count(Section::Additional);
        writer.pointer(name.unwrap());
        writer.address("2001:db8::1".parse().unwrap(), 60);
        writer.opt(1232, 0, crate::wire::flags::DNSSEC_OK, |w| w.option(3, |w| w.bytes(b"me")));
        let message = Message::from_vec(writer.message()).unwrap();
        let shown: Vec<String> = message.all_sections().map(ToString::to_string).collect();
        expect![[r#"
            WWW.x. 30 IN A 192.0.2.1
            x. 60 IN NS ns.x.
            ns.x. 60 IN AAAA 2001:db8::1"#]]
        .assert_eq(&shown.join("\n"));
        assert!(message.edns.is_some_and(|edns| edns.flags().dnssec_ok));

        writer.rewind(question.len());
        assert_eq!(writer.message(), [&[0, 7, 0x81, 0, 0, 1, 0, 0, 0, 0, 0, 0], &question[..]].concat());
    }
}
