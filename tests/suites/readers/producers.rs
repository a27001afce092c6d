//! Records with headers and payloads as widely used producers write them.

use reduct_sink_testbed::Message;

/// One record of each kind.
pub fn as_others_produce() -> Vec<Message> {
    let guid = [&[1][..], &(0..16).collect::<Vec<u8>>()].concat();
    vec![
        // Spring: the types of its headers as JSON, a content type in quotes, the class of the payload.
        Message::new(r#"{"temp": 7}"#)
            .header("spring_json_header_types", r#"{"contentType":"java.lang.String","seq":"java.lang.Integer"}"#)
            .header("contentType", "\"application/json\"")
            .header("seq", "7")
            .header("__TypeId__", "com.example.Frame$Part"),
        // Spring's dead letters: numbers as bytes, and a stack trace.
        Message::new("x")
            .header("kafka_dlt-original-offset", 7_u64.to_be_bytes().to_vec())
            .header("kafka_dlt-exception-stacktrace", "java.lang.X: \"a\"\n\tat b.c(D.java:1)\n"),
        // Kafka Connect: what it says of failed records, and values of headers as JSON with their schema.
        Message::new("x")
            .header("__connect.errors.topic", "camera")
            .header("__connect.errors.exception.message", "Failed: 'a', \"b\"")
            .header("note", r#"{"schema":{"type":"string","optional":false},"payload":"hi"}"#),
        // Debezium: a change with a key of JSON, and the tombstone after a removal.
        Message::new(r#"{"before": null, "after": {"id": 1}, "op": "c"}"#)
            .key(r#"{"schema": {"type": "struct"}, "payload": {"id": 1}}"#)
            .header("__debezium.context.connectorName", "pg"),
        Message::tombstone(r#"{"id": 1}"#).header("__debezium.newkey", r#"{"id": 2}"#),
        // Serializers of a schema registry: the prefix in the payload, and the newer header.
        Message::new(vec![0, 0, 0, 0, 7, 84]).header("__value_schema_id", guid.clone()).header("__key_schema_id", guid),
        // CloudEvents in binary mode.
        Message::new("{}")
            .header("ce_specversion", "1.0")
            .header("ce_id", "A234-1234-1234")
            .header("ce_type", "com.example.someevent")
            .header("ce_time", "2026-11-26T01:02:03.5Z")
            .header("content-type", "application/cloudevents+json; charset=UTF-8"),
        // OpenTelemetry: context that travels with the record.
        Message::new("x")
            .header("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
            .header("tracestate", "rojo=00f067aa0ba902b7,congo=t61rcWkgMzE")
            .header("baggage", "userId=alice,serverNode=DF%2028,isProduction=false"),
        // Bridges of MQTT: the topic with its slashes, user properties that repeat, a level of service.
        Message::new(vec![0xff, 0xd8])
            .key("plant/hall 3/camera")
            .header("mqtt.topic", "plant/hall 3/camera")
            .header("mqtt.qos", "1")
            .header("user-property", "a=1")
            .header("user-property", "b=2"),
        // Flink and MirrorMaker add none; NiFi and Logstash write attributes with dots, blanks and capitals.
        Message::new("x")
            .header("kafka.topic", "camera")
            .header("fileName", "a b.jpg")
            .header("mime.type", "image/jpeg")
            .header("@timestamp", "2026-11-26T01:02:03.000Z"),
    ]
}
