//! Records between librdkafka's memory and ours.

use std::ffi::CStr;
use std::sync::Arc;

use bytes::Bytes;
use rdkafka::bindings as ffi;
use rdkafka::message::{BorrowedHeaders, BorrowedMessage, Header as FfiHeader, Headers, Message, OwnedHeaders};
use rdkafka::producer::FutureRecord;

use crate::domain::record::{Header, Outgoing, Record};
use crate::domain::time::Timestamp;

/// Copies a message out of librdkafka's memory. `topic` is the name that the caller already holds.
pub fn to_record(message: &BorrowedMessage<'_>, topic: &Arc<str>) -> Record {
    Record {
        topic: topic.clone(),
        partition: message.partition(),
        offset: message.offset(),
        timestamp: message.timestamp().to_millis().map(Timestamp),
        key: message.key().map(Bytes::copy_from_slice),
        value: message.payload().map(Bytes::copy_from_slice),
        headers: to_headers(message),
    }
}

/// Copies the headers of a message out of librdkafka's memory.
pub fn to_headers(message: &BorrowedMessage<'_>) -> Vec<Header> {
    message.headers().map(copy_headers).unwrap_or_default()
}

/// Puts a record into librdkafka's terms. Its partition follows from its key, its timestamp is the time of sending.
pub fn to_future_record(record: &Outgoing) -> FutureRecord<'_, [u8], [u8]> {
    let add = |headers: OwnedHeaders, header: &Header| {
        headers.insert(FfiHeader { key: &header.name, value: header.value.as_deref() })
    };
    let headers = record.headers.iter().fold(OwnedHeaders::new_with_capacity(record.headers.len()), add);
    let mut future_record = FutureRecord::to(&record.topic).headers(headers);
    future_record.key = record.key.as_deref();
    future_record.payload = record.value.as_deref();
    future_record
}

fn copy_headers(headers: &BorrowedHeaders) -> Vec<Header> {
    (0..headers.count()).map_while(|index| header(headers, index)).collect()
}

/// Reads one header.
///
/// rdkafka's own accessor panics on a name that is not UTF-8, which any producer may write. The name is read here
/// instead, with replacement characters for what is no text; the value stays as it is.
fn header(headers: &BorrowedHeaders, index: usize) -> Option<Header> {
    let (mut name, mut value, mut size) = (std::ptr::null(), std::ptr::null(), 0);
    // SAFETY: `BorrowedHeaders` is librdkafka's `rd_kafka_headers_t` behind a reference, as rdkafka itself casts it. The
    // call only reads, and writes the three locals. What they point to lives as long as the message, which outlives
    // `headers`; the name is a C string, and a value that is not null has `size` bytes.
    unsafe {
        let native = std::ptr::from_ref(headers).cast::<ffi::rd_kafka_headers_t>();
        let error = ffi::rd_kafka_header_get_all(native, index, &mut name, &mut value, &mut size);
        if error != ffi::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR {
            return None;
        }
        let name = CStr::from_ptr(name).to_string_lossy().into_owned();
        let bytes = || Bytes::copy_from_slice(std::slice::from_raw_parts(value.cast::<u8>(), size));
        Some(Header { name, value: (!value.is_null()).then(bytes) })
    }
}
