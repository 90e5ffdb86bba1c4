/* An agent (see agents.py) for Eclipse Paho C's asynchronous client: lines on standard input and output. Drives the
   library, judges nothing. */
#include <MQTTAsync.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { WORDS_MAX = 24, KEEP_ALIVE_SECONDS = 60, REFUSED = 128, UNTOLD = -1 };

typedef struct {
    int length;
    char *data; /* with a zero behind it */
} Bytes;

static MQTTAsync client;
static int version;
static char uri[64];
static char *words[WORDS_MAX];
static int word_count;

/* ---- Lines. Callbacks come from other threads, so a line is one call of the standard library's. ---- */

static void say_done(void *id, int reason) {
    printf("%s done reason=%d\n", (char *)id, reason);
    fflush(stdout);
    free(id);
}

static const char *field(const char *key) {
    size_t length = strlen(key);
    for (int at = 0; at < word_count; at++)
        if (strncmp(words[at], key, length) == 0 && words[at][length] == '=') return words[at] + length + 1;
    return NULL;
}

static int number(const char *key) {
    const char *text = field(key);
    return text ? atoi(text) : 0;
}

static int digit(char c) {
    return c <= '9' ? c - '0' : c - 'a' + 10;
}

static Bytes from_hex(const char *text, size_t digits) {
    Bytes bytes = {(int)(digits / 2), malloc(digits / 2 + 1)};
    for (int at = 0; at < bytes.length; at++)
        bytes.data[at] = (char)(digit(text[2 * at]) << 4 | digit(text[2 * at + 1]));
    bytes.data[bytes.length] = 0;
    return bytes;
}

static Bytes bytes(const char *key) {
    const char *text = field(key);
    return text ? from_hex(text, strlen(text)) : (Bytes){0, NULL};
}

static char *put_hex(char *to, const char *data, int length) {
    static const char digits[] = "0123456789abcdef";
    for (int at = 0; at < length; at++) {
        *to++ = digits[(uint8_t)data[at] >> 4];
        *to++ = digits[(uint8_t)data[at] & 15];
    }
    return to;
}

/* ---- Properties. ---- */

static void add_data(MQTTProperties *properties, enum MQTTPropertyCodes code, Bytes data, Bytes value) {
    MQTTProperty property = {.identifier = code};
    property.value.data.data = data.data;
    property.value.data.len = data.length;
    property.value.value.data = value.data;
    property.value.value.len = value.length;
    MQTTProperties_add(properties, &property);
    free(data.data);
    free(value.data);
}

static void add_text(MQTTProperties *properties, enum MQTTPropertyCodes code, const char *key) {
    if (field(key)) add_data(properties, code, bytes(key), (Bytes){0, NULL});
}

static void add_number(MQTTProperties *properties, enum MQTTPropertyCodes code, const char *key) {
    MQTTProperty property = {.identifier = code};
    if (!field(key)) return;
    if (code == MQTTPROPERTY_CODE_TOPIC_ALIAS)
        property.value.integer2 = (unsigned short)number(key);
    else
        property.value.integer4 = (unsigned)number(key);
    MQTTProperties_add(properties, &property);
}

static void add_user_properties(MQTTProperties *properties) {
    const char *at = field("user");
    while (at && *at) {
        size_t key = strcspn(at, ":"), value = strcspn(at + key + 1, ",");
        add_data(properties, MQTTPROPERTY_CODE_USER_PROPERTY, from_hex(at, key), from_hex(at + key + 1, value));
        at += key + 1 + value;
        at += *at == ',';
    }
}

static char *put_text(char *to, MQTTProperties *given, enum MQTTPropertyCodes code, const char *key) {
    MQTTProperty *found = MQTTProperties_getProperty(given, code);
    if (!found) return to;
    return put_hex(to + sprintf(to, " %s=", key), found->value.data.data, found->value.data.len);
}

static char *put_properties(char *to, MQTTProperties *given) {
    to = put_text(to, given, MQTTPROPERTY_CODE_CONTENT_TYPE, "content_type");
    to = put_text(to, given, MQTTPROPERTY_CODE_RESPONSE_TOPIC, "response_topic");
    to = put_text(to, given, MQTTPROPERTY_CODE_CORRELATION_DATA, "correlation");
    if (MQTTProperties_hasProperty(given, MQTTPROPERTY_CODE_MESSAGE_EXPIRY_INTERVAL))
        to += sprintf(to, " expiry=%d", MQTTProperties_getNumericValue(given, MQTTPROPERTY_CODE_MESSAGE_EXPIRY_INTERVAL));
    int count = MQTTProperties_propertyCount(given, MQTTPROPERTY_CODE_SUBSCRIPTION_IDENTIFIER);
    for (int at = 0; at < count; at++)
        to += sprintf(to, "%s%d", at ? "," : " identifier=",
                      MQTTProperties_getNumericValueAt(given, MQTTPROPERTY_CODE_SUBSCRIPTION_IDENTIFIER, at));
    count = MQTTProperties_propertyCount(given, MQTTPROPERTY_CODE_USER_PROPERTY);
    for (int at = 0; at < count; at++) {
        MQTTProperty *pair = MQTTProperties_getPropertyAt(given, MQTTPROPERTY_CODE_USER_PROPERTY, at);
        to = put_hex(to + sprintf(to, "%s", at ? "," : " user="), pair->value.data.data, pair->value.data.len);
        to = put_hex(to + sprintf(to, ":"), pair->value.value.data, pair->value.value.len);
    }
    return to;
}

/* ---- What the library calls. `context` is the request's identifier. ---- */

static void handle_success(void *context, MQTTAsync_successData *data) {
    (void)data;
    say_done(context, 0);
}

static void handle_success5(void *context, MQTTAsync_successData5 *data) {
    say_done(context, (int)data->reasonCode);
}

/* What PUBACK or PUBREC says where it is no failure, the library does not tell. */
static void handle_published5(void *context, MQTTAsync_successData5 *data) {
    (void)data;
    say_done(context, UNTOLD);
}

static void handle_failure(void *context, MQTTAsync_failureData *data) {
    say_done(context, data->code);
}

static void handle_failure5(void *context, MQTTAsync_failureData5 *data) {
    say_done(context, data->reasonCode ? (int)data->reasonCode : data->code);
}

static void handle_connected(void *context, MQTTAsync_successData *data) {
    printf("%s done reason=0 present=%d\n", (char *)context, data->alt.connect.sessionPresent);
    fflush(stdout);
    free(context);
}

static void handle_connected5(void *context, MQTTAsync_successData5 *data) {
    printf("%s done reason=0 present=%d\n", (char *)context, data->alt.connect.sessionPresent);
    fflush(stdout);
    free(context);
}

static void handle_granted(void *context, MQTTAsync_successData *data) {
    say_done(context, data->alt.qos);
}

static void handle_not_granted(void *context, MQTTAsync_failureData *data) {
    (void)data;
    say_done(context, REFUSED);
}

static int handle_message(void *context, char *topic, int topic_length, MQTTAsync_message *message) {
    (void)context;
    int length = topic_length > 0 ? topic_length : (int)strlen(topic);
    char *line = malloc(2 * (size_t)(length + message->payloadlen + message->properties.length) + 1024), *to = line;
    to = put_hex(to + sprintf(to, "- message topic="), topic, length);
    to = put_hex(to + sprintf(to, " payload="), message->payload, message->payloadlen);
    to += sprintf(to, " qos=%d retain=%d", message->qos, message->retained);
    to = put_properties(to, &message->properties);
    *to = 0;
    puts(line);
    fflush(stdout);
    free(line);
    MQTTAsync_freeMessage(&message);
    MQTTAsync_free(topic);
    return 1;
}

/* ---- Requests. ---- */

static void connect_client(char *id) {
    MQTTAsync_createOptions creation = MQTTAsync_createOptions_initializer5;
    MQTTAsync_connectOptions old = MQTTAsync_connectOptions_initializer, new = MQTTAsync_connectOptions_initializer5;
    MQTTAsync_willOptions will = MQTTAsync_willOptions_initializer;
    MQTTProperties properties = MQTTProperties_initializer;
    Bytes name = bytes("client"), user = bytes("username"), password = bytes("password");
    Bytes topic = bytes("will_topic"), payload = bytes("will_payload");

    if (client) MQTTAsync_destroy(&client);
    version = number("version") == 5 ? MQTTVERSION_5 : MQTTVERSION_3_1_1;
    creation.MQTTVersion = version;
    MQTTAsync_createWithOptions(&client, uri, name.data, MQTTCLIENT_PERSISTENCE_NONE, NULL, &creation);
    MQTTAsync_setCallbacks(client, NULL, NULL, handle_message, NULL);

    MQTTAsync_connectOptions options = version == MQTTVERSION_5 ? new : old;
    options.MQTTVersion = version;
    options.keepAliveInterval = KEEP_ALIVE_SECONDS;
    options.username = user.data;
    options.password = password.data;
    options.context = id;
    if (topic.data) {
        will.topicName = topic.data;
        will.message = payload.data;
        will.qos = 1;
        options.will = &will;
    }
    if (version == MQTTVERSION_5) {
        add_number(&properties, MQTTPROPERTY_CODE_SESSION_EXPIRY_INTERVAL, "expiry");
        options.cleanstart = number("clean");
        options.connectProperties = &properties;
        options.onSuccess5 = handle_connected5;
        options.onFailure5 = handle_failure5;
    } else {
        options.cleansession = number("clean");
        options.onSuccess = handle_connected;
        options.onFailure = handle_failure;
    }
    int error = MQTTAsync_connect(client, &options);
    if (error) say_done(id, error);
    MQTTProperties_free(&properties);
    free(name.data), free(user.data), free(password.data), free(topic.data), free(payload.data);
}

static MQTTAsync_responseOptions answers(char *id) {
    MQTTAsync_responseOptions options = MQTTAsync_responseOptions_initializer;
    options.context = id;
    if (version == MQTTVERSION_5) {
        options.onSuccess5 = handle_success5;
        options.onFailure5 = handle_failure5;
    } else {
        options.onSuccess = handle_success;
        options.onFailure = handle_failure;
    }
    return options;
}

static void subscribe(char *id) {
    MQTTAsync_responseOptions options = answers(id);
    Bytes filter = bytes("filter");
    if (version == MQTTVERSION_5) {
        options.subscribeOptions.noLocal = (unsigned char)number("no_local");
        add_number(&options.properties, MQTTPROPERTY_CODE_SUBSCRIPTION_IDENTIFIER, "identifier");
    } else {
        options.onSuccess = handle_granted;
        options.onFailure = handle_not_granted;
    }
    int error = MQTTAsync_subscribe(client, filter.data, number("qos"), &options);
    if (error) say_done(id, error);
    MQTTProperties_free(&options.properties);
    free(filter.data);
}

static void unsubscribe(char *id) {
    MQTTAsync_responseOptions options = answers(id);
    Bytes filter = bytes("filter");
    int error = MQTTAsync_unsubscribe(client, filter.data, &options);
    if (error) say_done(id, error);
    free(filter.data);
}

static void publish(char *id) {
    MQTTAsync_responseOptions options = answers(id);
    MQTTAsync_message message = MQTTAsync_message_initializer;
    Bytes topic = bytes("topic"), payload = bytes("payload");
    message.payload = payload.data;
    message.payloadlen = payload.length;
    message.qos = number("qos");
    message.retained = number("retain");
    if (version == MQTTVERSION_5) {
        options.onSuccess5 = handle_published5;
        add_text(&message.properties, MQTTPROPERTY_CODE_CONTENT_TYPE, "content_type");
        add_text(&message.properties, MQTTPROPERTY_CODE_RESPONSE_TOPIC, "response_topic");
        add_text(&message.properties, MQTTPROPERTY_CODE_CORRELATION_DATA, "correlation");
        add_number(&message.properties, MQTTPROPERTY_CODE_MESSAGE_EXPIRY_INTERVAL, "expiry");
        add_number(&message.properties, MQTTPROPERTY_CODE_TOPIC_ALIAS, "alias");
        add_user_properties(&message.properties);
    }
    int error = MQTTAsync_sendMessage(client, topic.data, &message, &options);
    if (error) say_done(id, error);
    MQTTProperties_free(&message.properties);
    free(topic.data), free(payload.data);
}

static void disconnect(char *id) {
    MQTTAsync_disconnectOptions options = MQTTAsync_disconnectOptions_initializer5;
    options.context = id;
    if (version == MQTTVERSION_5) {
        options.onSuccess5 = handle_success5;
        options.onFailure5 = handle_failure5;
    } else {
        options.onSuccess = handle_success;
        options.onFailure = handle_failure;
    }
    int error = MQTTAsync_disconnect(client, &options);
    if (error) say_done(id, error);
}

static void handle(char *line) {
    static const struct {
        const char *verb;
        void (*act)(char *id);
    } verbs[] = {{"connect", connect_client}, {"subscribe", subscribe},   {"unsubscribe", unsubscribe},
                 {"publish", publish},        {"disconnect", disconnect}};
    word_count = 0;
    for (char *word = strtok(line, " \n"); word && word_count < WORDS_MAX; word = strtok(NULL, " \n"))
        words[word_count++] = word;
    for (size_t at = 0; word_count >= 2 && at < sizeof verbs / sizeof *verbs; at++)
        if (strcmp(words[1], verbs[at].verb) == 0) verbs[at].act(strdup(words[0]));
}

int main(int count, char **arguments) {
    char *line = NULL;
    size_t size = 0;
    if (count != 2) return 2;
    snprintf(uri, sizeof uri, "tcp://127.0.0.1:%s", arguments[1]);
    while (getline(&line, &size, stdin) > 0) handle(line);
    return 0;
}
