/* A Modbus device made of libmodbus: `libmodbus_server tcp PORT TABLE` or `libmodbus_server rtu PATH UNIT TABLE`.
 * TABLE holds lines like `holding 40 215`, of the tables coil, discrete, holding and input. Answers until it is killed;
 * what it has no address for it refuses. */

#include <errno.h>
#include <modbus.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define ADDRESSES 1000

static void die(const char *what) {
    fprintf(stderr, "%s: %s\n", what, modbus_strerror(errno));
    exit(1);
}

static modbus_mapping_t *load(const char *path) {
    modbus_mapping_t *mapping = modbus_mapping_new(ADDRESSES, ADDRESSES, ADDRESSES, ADDRESSES);
    FILE *file = fopen(path, "r");
    if (mapping == NULL || file == NULL) {
        die(path);
    }
    char table[16];
    int address, value;
    while (fscanf(file, "%15s %d %d", table, &address, &value) == 3) {
        if (address < 0 || address >= ADDRESSES) {
            continue;
        }
        if (strcmp(table, "coil") == 0) {
            mapping->tab_bits[address] = (uint8_t)value;
        } else if (strcmp(table, "discrete") == 0) {
            mapping->tab_input_bits[address] = (uint8_t)value;
        } else if (strcmp(table, "holding") == 0) {
            mapping->tab_registers[address] = (uint16_t)value;
        } else {
            mapping->tab_input_registers[address] = (uint16_t)value;
        }
    }
    fclose(file);
    return mapping;
}

/* Until the other end is gone. */
static void serve(modbus_t *line, modbus_mapping_t *mapping) {
    uint8_t query[MODBUS_MAX_ADU_LENGTH];
    for (;;) {
        int length = modbus_receive(line, query);
        if (length > 0) {
            modbus_reply(line, query, length, mapping);
        } else if (length < 0 && errno != EMBBADCRC && errno != ETIMEDOUT) {
            return;
        }
    }
}

int main(int argc, char **argv) {
    if (argc == 4 && strcmp(argv[1], "tcp") == 0) {
        modbus_mapping_t *mapping = load(argv[3]);
        modbus_t *line = modbus_new_tcp("127.0.0.1", atoi(argv[2]));
        int listener = line == NULL ? -1 : modbus_tcp_listen(line, 1);
        if (listener < 0) {
            die("listen");
        }
        while (modbus_tcp_accept(line, &listener) >= 0) {
            serve(line, mapping);
            modbus_close(line);
        }
        die("accept");
    }
    if (argc == 5 && strcmp(argv[1], "rtu") == 0) {
        modbus_mapping_t *mapping = load(argv[4]);
        modbus_t *line = modbus_new_rtu(argv[2], 19200, 'N', 8, 1);
        if (line == NULL || modbus_set_slave(line, atoi(argv[3])) < 0 || modbus_connect(line) < 0) {
            die(argv[2]);
        }
        serve(line, mapping);
        die("serve");
    }
    fprintf(stderr, "usage: %s tcp PORT TABLE | rtu PATH UNIT TABLE\n", argv[0]);
    return 2;
}
