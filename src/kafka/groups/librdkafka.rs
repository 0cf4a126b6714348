//! What the coordinators of a cluster say of consumer groups. rdkafka has no words for these
//! questions; librdkafka's own are asked here, and block.

use std::collections::BTreeMap;
use std::ffi::{CStr, c_char};
use std::time::Duration;

use rdkafka::bindings as ffi;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode};

use super::Committed;
use crate::domain::observe::group::{GroupView, MemberView};
use crate::kafka::admin::{Answer, c_string, code};

/// Describes a group. One that does not exist is `Dead`.
pub(super) fn describe(client: &BaseConsumer, group: &str, timeout: Duration) -> KafkaResult<GroupView> {
    let (client, name) = (client.client().native_ptr(), c_string(group)?);
    // SAFETY: the client is alive while its owner waits for this call. The name outlives the call, which copies it. What the
    // answer points to lives as long as the event.
    unsafe {
        let mut names = [name.as_ptr()];
        let ask = |options, queue| {
            ffi::rd_kafka_DescribeConsumerGroups(client, names.as_mut_ptr(), names.len(), options, queue)
        };
        let kind = ffi::rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_DESCRIBECONSUMERGROUPS;
        let answer = Answer::to(client, kind, timeout, ask)?;
        let result = ffi::rd_kafka_event_DescribeConsumerGroups_result(answer.0);
        let mut count = 0;
        let found = ffi::rd_kafka_DescribeConsumerGroups_result_groups(result, &mut count);
        if count == 0 {
            return Ok(none());
        }
        match code(ffi::rd_kafka_ConsumerGroupDescription_error(*found)) {
            Some(RDKafkaErrorCode::GroupIdNotFound) => Ok(none()),
            Some(code) => Err(KafkaError::GroupListFetch(code)),
            None => Ok(view(*found)),
        }
    }
}

/// What a group has committed; nothing where there is no such group.
pub(super) fn committed(client: &BaseConsumer, group: &str, timeout: Duration) -> KafkaResult<Committed> {
    let (client, name) = (client.client().native_ptr(), c_string(group)?);
    // SAFETY: as above. `request` is ours and is freed once; the call copies it.
    unsafe {
        let mut request = ffi::rd_kafka_ListConsumerGroupOffsets_new(name.as_ptr(), std::ptr::null());
        let ask = |options, queue| ffi::rd_kafka_ListConsumerGroupOffsets(client, &mut request, 1, options, queue);
        let kind = ffi::rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_LISTCONSUMERGROUPOFFSETS;
        let answer = Answer::to(client, kind, timeout, ask);
        ffi::rd_kafka_ListConsumerGroupOffsets_destroy(request);
        let answer = answer?;
        let result = ffi::rd_kafka_event_ListConsumerGroupOffsets_result(answer.0);
        let mut count = 0;
        let found = ffi::rd_kafka_ListConsumerGroupOffsets_result_groups(result, &mut count);
        let mut committed = Committed::new();
        for index in 0..count {
            let group = *found.add(index);
            match code(ffi::rd_kafka_group_result_error(group)) {
                None => {}
                Some(RDKafkaErrorCode::GroupIdNotFound) => continue,
                Some(code) => return Err(KafkaError::OffsetFetch(code)),
            }
            for element in elements(ffi::rd_kafka_group_result_partitions(group)) {
                if element.offset < 0 || element.err != ffi::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR {
                    continue;
                }
                let bytes: &[u8] = match element.metadata.is_null() {
                    true => &[],
                    false => std::slice::from_raw_parts(element.metadata.cast(), element.metadata_size),
                };
                let metadata = String::from_utf8_lossy(bytes).into_owned();
                committed.insert((text(element.topic), element.partition), (element.offset, metadata));
            }
        }
        Ok(committed)
    }
}

fn none() -> GroupView {
    GroupView { state: "Dead".to_owned(), members: BTreeMap::new() }
}

/// # Safety
/// `group` is alive.
unsafe fn view(group: *const ffi::rd_kafka_ConsumerGroupDescription_t) -> GroupView {
    // SAFETY: what the getters return lives as long as the group.
    unsafe {
        let state = ffi::rd_kafka_ConsumerGroupDescription_state(group);
        let count = ffi::rd_kafka_ConsumerGroupDescription_member_count(group);
        let member = |index| {
            let member = ffi::rd_kafka_ConsumerGroupDescription_member(group, index);
            let assignment = ffi::rd_kafka_MemberDescription_assignment(member);
            let partitions = if assignment.is_null() {
                std::ptr::null()
            } else {
                ffi::rd_kafka_MemberAssignment_partitions(assignment)
            };
            let view = MemberView {
                client: text(ffi::rd_kafka_MemberDescription_client_id(member)),
                host: text(ffi::rd_kafka_MemberDescription_host(member)),
                partitions: elements(partitions).iter().map(|e| (text(e.topic), e.partition)).collect(),
            };
            (text(ffi::rd_kafka_MemberDescription_consumer_id(member)), view)
        };
        GroupView {
            state: text(ffi::rd_kafka_consumer_group_state_name(state)),
            members: (0..count).map(member).collect(),
        }
    }
}

/// # Safety
/// `list` is null or alive for `'a`.
unsafe fn elements<'a>(list: *const ffi::rd_kafka_topic_partition_list_t) -> &'a [ffi::rd_kafka_topic_partition_t] {
    // SAFETY: a list has `cnt` elements from `elems` on, which is null where there are none.
    unsafe {
        match list.as_ref() {
            Some(list) if list.cnt > 0 => {
                std::slice::from_raw_parts(list.elems, usize::try_from(list.cnt).unwrap_or(0))
            }
            _ => &[],
        }
    }
}

/// # Safety
/// `text` is null or a C string.
unsafe fn text(text: *const c_char) -> String {
    if text.is_null() {
        return String::new();
    }
    // SAFETY: the caller's.
    unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned()
}
